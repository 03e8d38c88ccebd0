"""The folder of a source, local or in a bucket; names and sizes are not trusted."""

import contextlib
from collections.abc import Iterator

import ijson
from etils import epath

from input_pipeline import safe_files
from input_pipeline.records import WHOLE_FILE, RecordError
from miras_jax.errors import UserError

MAX_ITEM_BYTES = 64 * 2**20  # of one element of a streamed list, as JSON text
MAX_JSON_BYTES = 1 << 30  # of a file that is read whole


class SourceFolder:
  """Files by names relative to a root, "/" between folders. Errors name the file.

  homepage, layout: of the card; they end the error for what is not there.
  """

  def __init__(self, root, *, homepage="", layout=""):
    self.root = epath.Path(root)
    self._homepage, self._layout = homepage, layout
    self._local = "://" not in str(root)
    if not self.root.is_dir():
      raise UserError(f"--src={root}: no such folder")

  def path(self, name: str):
    """Path of a file or folder below the root. ValueError for one that leaves it."""
    if not self._local:
      safe_files.check_relative(name)
      return self.root / name
    return epath.Path(safe_files.resolve_inside(self.root, name))

  def is_file(self, name: str) -> bool:
    return self.path(name).is_file()

  def is_dir(self, name: str) -> bool:
    return self.path(name).is_dir()

  def first(self, *names: str) -> str | None:
    """The first of the names that is a file or a folder; None: none is."""
    return next((name for name in names if self.path(name).exists()), None)

  def list(self, name: str, *suffixes: str) -> list[str]:
    """Names (relative to the root) of the files in a folder, sorted; with `suffixes`
    only those that end so, in any case. [] where there is no such folder."""
    folder = self.path(name)
    if not folder.is_dir():
      return []
    wanted = tuple(suffix.lower() for suffix in suffixes) or ("",)
    names = sorted(path.name for path in folder.iterdir())
    prefix = f"{name.rstrip('/')}/" if name not in ("", ".") else ""
    return [prefix + n for n in names if n.lower().endswith(wanted) and n[:1] != "."]

  def walk(self, name: str, *suffixes: str, depth: int = 8) -> Iterator[str]:
    """As `list`, also of the folders below; sorted, folder by folder."""
    yield from (n for n in self.list(name, *suffixes) if not self.is_dir(n))
    if depth:
      for inner in self.list(name):
        if self.is_dir(inner):
          yield from self.walk(inner, *suffixes, depth=depth - 1)

  def read(self, name: str, limit: int = safe_files.MAX_IMAGE_BYTES) -> bytes:
    """Content of a file. Raises ValueError with a reason, FileNotFoundError."""
    path = self.path(name)
    if self._local:
      return safe_files.read_bytes(path, limit)
    if not path.is_file():
      raise FileNotFoundError(name)
    if (size := path.stat().length) > limit:
      raise ValueError(f"has {size:,} bytes, more than the limit {limit:,}")
    return path.read_bytes()

  def json(self, name: str, *, fallback_encoding=None, limit=safe_files.MAX_MASK_BYTES):
    """The parsed content of a small JSON file. RecordError names it where it is bad."""
    try:
      data = self.read(name, limit)
      return safe_files.parse_json(data, fallback_encoding=fallback_encoding)[0]
    except FileNotFoundError:
      raise RecordError(name, WHOLE_FILE, "no such file") from None
    except ValueError as error:
      raise RecordError(name, WHOLE_FILE, str(error)) from None

  def items(self, name: str, prefix: str = "item") -> Iterator:
    """Elements of a JSON list of any size, one at a time.

    prefix: "item" for a list, "annotations.item" for the list at that key. Raises
    RecordError where the file is missing or breaks off.
    """
    return self._streamed(name, lambda file: ijson.items(file, prefix, use_float=True))

  def pairs(self, name: str, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Keys and values of a JSON object of any size, one at a time; otherwise `items`.

    prefix: "" for the outermost object, "masks" for the one at that key.
    """
    return self._streamed(
      name, lambda file: ijson.kvitems(file, prefix, use_float=True)
    )

  def _streamed(self, name, read):
    try:
      with self.open(name) as file:
        yield from read(file)
    except FileNotFoundError:
      raise RecordError(name, WHOLE_FILE, "no such file") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
      reason = " ".join(str(error).split())[:120]
      raise RecordError(name, WHOLE_FILE, f"is not valid JSON: {reason}") from None
    except ValueError as error:
      raise RecordError(name, WHOLE_FILE, str(error)) from None

  @contextlib.contextmanager
  def open(self, name: str):
    """The file, for reading bytes. ValueError for a FIFO, a folder, a device."""
    path = self.path(name)
    if self._local:
      with safe_files.opened(path) as file:
        yield file
      return
    if not path.is_file():
      raise FileNotFoundError(name)
    with path.open("rb") as file:
      yield file

  def missing(self, *names: str) -> UserError:
    """The error for a source without the files that its card describes."""
    listed = " or ".join(names)
    return UserError(
      f"--src={self.root}: holds no {listed}; get the data from {self._homepage} and"
      " lay them out as below",
      details=self._layout.rstrip(),
    )
