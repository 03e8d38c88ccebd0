"""A conversation before it is one of the data set, and why one is not."""

import dataclasses

from miras_jax.data.construct.measures import Measures
from miras_jax.data.construct.tree import Path, Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Draft:
  """turns: (role, text), user first. focus: a noun phrase; annotation: the id of the
  region that it is, "" without masks. measures: None without masks. names: of what the
  focus is one of, its own first."""

  image: str
  tree: Tree
  path: Path
  turns: tuple[tuple[str, str], ...]
  focus: str
  annotation: str
  measures: Measures | None
  names: tuple[str, ...]

  def light(self) -> "Draft":
    """The same without the masks, whose pixels take room."""
    return dataclasses.replace(self, measures=None)

  def early(self) -> list[tuple[str, str]]:
    """The turns before the last answer."""
    return list(self.turns[:-1])


def candidates(made: Tree, path: Path, measures: Measures | None) -> tuple[str, ...]:
  """Names of what a focus is one of, its own first, each once."""
  focus = made.elements[path.focus]
  if measures:
    ids = [focus.annotation, *measures.targets()]
    found = [measures.things[i].name for i in ids]
  else:
    found = [focus.name, *(e.name for e in made.elements.values())]
  return tuple(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True, eq=False)
class Rejection:
  """reason: the first of `reasons`, keys of `checks.REASONS`. path, draft: None where
  it did not come so far."""

  image: str
  reason: str
  detail: str
  reasons: tuple[str, ...]
  path: Path | None = None
  draft: Draft | None = None
