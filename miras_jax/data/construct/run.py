"""All photographs through the stages, several at a time, then checks of all at once."""

import collections
import dataclasses
from collections.abc import Callable

from tqdm import tqdm

from input_pipeline.annotations.photo import Region
from input_pipeline.builders import split_by_photograph
from input_pipeline.records import Problem, RecordError
from miras_jax.data.construct import checks, guesser
from miras_jax.data.construct.drafts import Draft, Rejection
from miras_jax.data.construct.photographs import Photographs
from miras_jax.data.construct.stages import Stages
from miras_jax.data.construct.tree import Tree
from miras_jax.llm import pool


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
  """A photograph after the stages. drafts: those that passed every check."""

  name: str
  height: int
  width: int
  regions: tuple[Region, ...]
  look: split_by_photograph.Photograph
  tree: Tree | None
  drafts: tuple[Draft, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """What came of a run. problems: photographs that cannot be used. tried: paths for
  which there was a dialogue or a rejection. guess: scores before and after."""

  photos: tuple[Photo, ...]
  rejections: tuple[Rejection, ...]
  problems: tuple[Problem, ...]
  guess: tuple[guesser.Score, guesser.Score]
  tokens: tuple[int, int]

  def drafts(self) -> list[Draft]:
    return [draft for photo in self.photos for draft in photo.drafts]

  def reasons(self) -> dict[str, int]:
    """How many rejections each reason has, by `checks.REASONS`."""
    counts = collections.Counter(r.reason for r in self.rejections)
    return {reason: counts[reason] for reason in checks.REASONS if counts[reason]}


def run(
  photographs: Photographs, stages: Stages, ask: Callable, threads: int, stop
) -> Run:
  """Asks for everything; the same replies give the same result in any order."""
  with tqdm(
    total=len(photographs.names), desc="construct", unit="image", disable=None
  ) as bar:

    def work(name):
      return _one(photographs, stages, ask, name)

    found = pool.work(work, photographs.names, threads, stop, bar.update)
  photos = [photo for photo, *_ in found if photo]
  rejections = [r for _, made, _ in found if made for r in made.rejections]
  problems = [*photographs.problems, *(p for *_, ps in found for p in ps)]
  tokens = tuple(
    sum(getattr(made, name) for _, made, _ in found if made)
    for name in ("tokens_in", "tokens_out")
  )
  photos, repeated = _unique(photos)
  photos, guessed, scores = _unguessed(photos)
  return Run(
    tuple(photos), (*rejections, *repeated, *guessed), tuple(problems), scores, tokens
  )


def _one(photographs, stages, ask, name):
  """(Photo, Made, problems) of a photograph; None, None where it cannot be used."""
  try:
    loaded = photographs.load(name)
  except RecordError as error:
    return None, None, [error.problem]
  made = stages.make(loaded.subject, ask)
  photo = Photo(
    name, loaded.height, loaded.width, loaded.regions, loaded.look, made.tree,
    made.drafts,
  )  # fmt: skip
  return photo, dataclasses.replace(made, drafts=(), tree=None), []


def _unique(photos):
  """Photos without dialogues that were said before about the same photograph, and
  without phrases that stand for two things of it."""
  kept, rejections = [], []
  for photo in photos:
    meant = {}
    for draft in photo.drafts:
      key = draft.annotation or draft.path.focus
      meant.setdefault(checks.plain(draft.focus), set()).add(key)
    said, drafts = set(), []
    for draft in photo.drafts:
      if len(meant[checks.plain(draft.focus)]) > 1:
        detail = f"{draft.focus!r} stands for two things"
        rejections.append(_reject(draft, "focus_unique", detail))
      elif draft.turns in said:
        rejections.append(_reject(draft, "repeat", "another dialogue says the same"))
      else:
        said.add(draft.turns)
        drafts.append(draft)
    kept.append(dataclasses.replace(photo, drafts=tuple(drafts)))
  return kept, rejections


def _unguessed(photos):
  drafts = [draft for photo in photos for draft in photo.drafts]
  out, before, after = guesser.prune(drafts)
  gone = {id(drafts[i]) for i in out}
  kept = [
    dataclasses.replace(p, drafts=tuple(d for d in p.drafts if id(d) not in gone))
    for p in photos
  ]
  detail = f"guessed right in {before.accuracy:.1%}, by chance {before.chance:.1%}"
  rejections = [_reject(drafts[i], "guessed", detail) for i in out]
  return kept, rejections, (before, after)


def _reject(draft, reason, detail):
  return Rejection(draft.image, reason, detail, (reason,), draft.path, draft)
