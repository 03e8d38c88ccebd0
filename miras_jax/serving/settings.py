"""What a server allows: numbers that `miras serve` takes as options."""

import dataclasses

from miras_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Limits of a server; `miras serve --help` explains those that are options."""

  slots: int = 8
  max_new_tokens: int = 128
  chunk: int = 8  # tokens that answers grow by between two looks at the queue
  read: int = 256  # tokens of new questions that are read between these looks
  queue: int = 64
  timeout: float = 120.0
  conversations: int = 1000
  memory_mb: int = 2048
  upload_mb: int = 32
  max_pixels: int = 50_000_000
  max_text: int = 8000  # characters of a message
  max_turns: int = 200  # of a conversation
  image_hosts: tuple[str, ...] = ()
  label_studio_url: str = ""
  label_studio_files: str = ""

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, int | float) and not value > 0:
        raise UserError(f"--{field.name}={value} must be more than 0")

  @property
  def upload_bytes(self) -> int:
    return self.upload_mb * 2**20
