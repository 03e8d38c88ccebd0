"""`Conversation` keeps the turns about one image and answers with text and masks.

Masks come at the image's own size.

T prompt tokens, H W image rows and columns, h w low-resolution mask sides.
"""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from input_pipeline import examples
from input_pipeline.conversation import encode_prompt
from miras_jax.errors import UserError
from miras_jax.inference import hints as hints_lib
from miras_jax.inference import memory
from miras_jax.inference.masks import Mask, seg_spans
from miras_jax.inference.sampling import Sampling, checked, checked_chunk
from miras_jax.models.sam_decoder import postprocess

THRESHOLD = 0.0  # a mask logit above it is inside, as SAM's mask_threshold
ANSWER_KEYS = (
  "tokens", "num_tokens", "ended", "num_seg", "seg_valid", "mask_logits", "iou",
)  # fmt: skip


class Prompt(NamedTuple):
  """A conversation up to where an answer begins: `tokens` and `image_slot`, both (T,)
  int32. The oldest `dropped_rounds` did not fit. marks: (T,), of tokens of earlier
  masks which these are, else 0; None: there are none."""

  tokens: np.ndarray
  image_slot: np.ndarray
  dropped_rounds: int = 0
  marks: np.ndarray | None = None

  @property
  def keys(self) -> np.ndarray:
    """(T,) int64: two prompts are the same as far as these are."""
    keys_T = np.asarray(self.tokens, np.int64)
    return keys_T if self.marks is None else keys_T + (self.marks << 32)

  def part(self, start, stop) -> "Prompt":
    """The tokens from `start` to `stop`."""
    cut = slice(start, stop)
    marks = None if self.marks is None else self.marks[cut]
    tokens, image_slot = self.tokens[cut], self.image_slot[cut]
    return self._replace(tokens=tokens, image_slot=image_slot, marks=marks)


def prompt_of(turns, tokenizer, data, *, names=None, shown=()) -> Prompt:
  """Turns that end with a question -> Prompt.

  `names`: target names of the [SEG] in the answers so far, where these are gold.
  shown: the earlier masks that the language model reads (`memory.shown`).
  Raises ConversationError when even the last question does not fit.
  """
  rounds = (len(turns) + 1) // 2
  before = [[] for _ in range(rounds)]
  for e, mask in enumerate(shown):
    before[min(mask.before, rounds - 1)].append(e)
  named = [e for e, mask in enumerate(shown) if mask.named]
  options = data.text_options() | {"shown": before, "named": named}
  row = encode_prompt(turns, tokenizer, names=names, **options)
  prompt = Prompt(row.tokens_L, row.image_slot_L, row.dropped_rounds)
  if not shown:
    return prompt
  at_T = (row.image_slot_L - data.num_image_tokens) // data.slot_tokens
  mark_E = np.array([mask.mark for mask in shown], np.int64)
  return prompt._replace(marks=np.where(at_T >= 0, mark_E[np.maximum(at_T, 0)], 0))


def check_text(text) -> str:
  """What a user says, without outer white space. Raises UserError."""
  if not isinstance(text, str):
    raise UserError(f"text: a {type(text).__name__}, want a str")
  try:
    text.encode()
  except UnicodeEncodeError:
    raise UserError("text: not valid Unicode (half of a surrogate pair)") from None
  text = text.strip()
  if not text:
    raise UserError("text: empty; say what you want to know or see")
  return text


class Answer(NamedTuple):
  """One generated answer. `logits` (K, h, w) and `iou` (K,) have one entry for each
  [SEG] up to the model's limit; `num_seg` counts all [SEG]. The oldest `dropped_rounds`
  were not seen. `refused`: why the question was not asked at all, or ""."""

  text: str
  num_seg: int = 0
  logits: np.ndarray = np.zeros((0, 1, 1), np.float32)
  iou: np.ndarray = np.zeros(0, np.float32)
  dropped_rounds: int = 0
  refused: str = ""


def read_answers(out, tokenizer) -> list[Answer]:
  """Result of `Session.turn` -> [Answer] of every row, on the host."""
  out = jax.device_get({k: out[k] for k in ANSWER_KEYS})
  answers = []
  for b, count in enumerate(out["num_tokens"] - out["ended"]):
    kept = out["seg_valid"][b] > 0
    answers.append(
      Answer(
        text=tokenizer.decode(out["tokens"][b, :count]).strip(),
        num_seg=int(out["num_seg"][b]),
        logits=out["mask_logits"][b][kept],
        iou=out["iou"][b][kept],
      )
    )
  return answers


def with_more(answers, out) -> list[Answer]:
  """Answers with the masks of `Session.masks_from` after those that they have."""
  out = jax.device_get({k: out[k] for k in ("seg_valid", "mask_logits", "iou")})
  joined = []
  for b, answer in enumerate(answers):
    kept = out["seg_valid"][b] > 0
    joined.append(
      answer._replace(
        logits=np.concatenate([answer.logits, out["mask_logits"][b][kept]]),
        iou=np.concatenate([answer.iou, out["iou"][b][kept]]),
      )
    )
  return joined


def full_size(logits_KHW, views, image_size, original_hw=None) -> np.ndarray:
  """Low-resolution logits -> bool masks (K, H, W) at the image's original size.

  `views` is what `make_views` gave for the image; another `original_hw` stretches the
  image part of the canvas to that size.
  """
  original_hw = views["original_hw"] if original_hw is None else original_hw
  if not len(logits_KHW):
    return np.zeros((0, *original_hw), bool)
  full = postprocess(logits_KHW, views["valid_hw"], original_hw, image_size)
  return full > THRESHOLD


def masks_of(answer: Answer, views, image_size) -> tuple[Mask, ...]:
  """The masks of an answer at the size of its image; `views` as in `full_size`."""
  masks_KHW = full_size(answer.logits, views, image_size)
  found = zip(masks_KHW, answer.iou, seg_spans(answer.text), strict=False)
  return tuple(Mask(mask_HW, float(iou), span) for mask_HW, iou, span in found)


class Reply(NamedTuple):
  """What the model has answered; a Mask for each [SEG] of the text up to the model's
  limit. `dropped_rounds` of the oldest rounds were not seen by the model any more.
  slots: the masks as later turns see them, of a model that looks at earlier ones."""

  text: str
  masks: tuple[Mask, ...]
  num_seg: int
  dropped_rounds: int
  slots: tuple[memory.Slot, ...] = ()


def reply_of(answer: Answer, views, data, dropped_rounds, turn) -> Reply:
  """The Reply to question number `turn`; `views` as in `full_size`."""
  masks, slots = masks_of(answer, views, data.sam_size), ()
  if memory.has_state(data):
    kept = answer.logits[: len(masks)]
    slots = tuple(memory.of_logits(logits, turn + 1) for logits in kept)
  return Reply(answer.text, masks, answer.num_seg, dropped_rounds, slots)


class Earlier(NamedTuple):
  """An earlier mask. slot: of a model with a state, else None. turn: number of the
  question that it came with, -1 where it was given between two."""

  array: np.ndarray
  slot: memory.Slot | None
  turn: int = -1


def _placed(mask: Earlier, most: int) -> Earlier:
  """The same, before question number `most` at the latest: it stays where it is."""
  slot = mask.slot
  return mask._replace(slot=slot and slot._replace(before=min(slot.before, most)))


class Conversation:
  """A conversation about one image: its encoding is made once, its turns are kept.

  turns: (role, text) pairs, as the model sees them. replies: one for each answer.
  earlier: all masks so far, those of the user too, in their order.
  """

  def __init__(self, loaded, generator, image):
    """`image`: encoded bytes. Raises ImageError when they do not decode."""
    self._loaded = loaded
    self._views = examples.make_views(image, loaded.data)
    batch = {k: v[None] for k, v in self._views.items()}
    self._session = generator.session(generator.encode(batch), loaded.data.max_len)
    self.turns, self.replies, self.earlier = [], [], []
    self._asking = None  # of the answer that is under way

  @property
  def has_state(self) -> bool:
    """Whether the model looks at earlier masks."""
    return memory.has_state(self._loaded.data)

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) of the image, and of every mask."""
    return tuple(map(int, self._views["original_hw"]))

  def reset(self):
    """Forgets the turns, keeps the image."""
    self._asking = None
    self.turns, self.replies, self.earlier = [], [], []

  def require_state(self) -> None:
    """UserError for a model that looks at no earlier masks."""
    if not self.has_state:
      raise UserError("this model looks at no earlier masks (model.state=none)")

  def remember(self, mask_HW) -> int:
    """Takes a mask of the user's, bool (H, W), among the earlier ones; its number.

    Raises UserError for what is no mask of this image, or a model without a state.
    """
    self.require_state()
    given = self._given(mask_HW)
    self._asking = None
    self.earlier.append(given)
    return len(self.earlier) - 1

  def _given(self, mask_HW, turn=-1):
    data = self._loaded.data
    mask_HW = hints_lib.mask_array(mask_HW, self.size) > 0
    before = len(self.replies)
    return Earlier(mask_HW, memory.of_mask(mask_HW, data, before=before), turn)

  def undo(self):
    """Forgets the last question and its answer. UserError where there is none."""
    if not self.replies:
      raise UserError("nothing has been said yet: there is nothing to undo")
    self._asking = None
    self.replies.pop()
    del self.turns[-2:]
    gone = len(self.replies)
    self.earlier = [_placed(m, gone) for m in self.earlier if m.turn != gone]

  def fork(self) -> "Conversation":
    """Another conversation that has said the same so far."""
    other = copy.copy(self)
    other._session = self._session.copy()
    for name in ("turns", "replies", "earlier"):
      setattr(other, name, list(getattr(self, name)))
    return other

  def say(
    self,
    text,
    *,
    points=(),
    box=None,
    mask=None,
    refers_to=None,
    temperature=0.0,
    top_p=1.0,
    seed=0,
  ) -> Reply:
    """Answers one user turn; both are remembered.

    Args:
      text: what the user says.
      points: (x, y, inside) in pixels of the image: what the masks of the answer are to
        hold (inside true) and to leave out.
      box: (x0, y0, x1, y1) in pixels, around what the masks are to hold.
      mask: about what the masks are to be: bool (H, W), a Mask or its RLE.
      refers_to: number of an earlier mask of this conversation, from 0, in its place.
        A model with a state sees both as earlier masks, and as the one that is meant.
      temperature, top_p, seed: see `sampling.Sampling`; temperature 0 is greedy.

    Raises:
      ConversationError: the text alone does not fit; nothing is remembered.
      UserError: a point, box, mask or number that is none of this image, a text that is
        none, a temperature, top_p or seed that there cannot be.
    """
    for _ in self.stream(
      text, points=points, box=box, mask=mask, refers_to=refers_to,
      temperature=temperature, top_p=top_p, seed=seed, chunk=None,
    ):  # fmt: skip
      pass
    return self.replies[-1]

  def stream(
    self,
    text,
    *,
    points=(),
    box=None,
    mask=None,
    refers_to=None,
    temperature=0.0,
    top_p=1.0,
    seed=0,
    chunk=1,
  ) -> Iterator[str]:
    """As `say`, but yields the answer's text so far each time it has grown by `chunk`
    tokens, or once where it is None; the reply is `replies[-1]` after the last. Nothing
    is remembered of an answer that is not read to its end; whatever else is done with
    the conversation meanwhile gives it up, and reading on is a UserError."""
    chunk = checked_chunk(chunk)
    loaded, session = self._loaded, self._session
    hints, slots, shown, given = self._pointed(points, box, mask, refers_to)
    asked = [*self.turns, ("user", check_text(text))]
    prompt = prompt_of(asked, loaded.tokenizer, loaded.data, shown=shown)
    sampling = Sampling.of([checked(temperature, top_p, seed)])
    session.ask([prompt], slots)
    asking = self._asking = object()
    count, most = 0, session.max_new_tokens
    while count < most:
      self._check_still(asking)
      session.go_on(chunk or most, sampling)
      tokens, ended = session.progress()[0]
      count = most if ended else len(tokens)
      yield loaded.tokenizer.decode(tokens[: len(tokens) - ended]).strip()
    self._check_still(asking)
    answer = read_answers(session.answers(hints, slots), loaded.tokenizer)[0]
    turn = len(self.replies)
    reply = reply_of(answer, self._views, loaded.data, prompt.dropped_rounds, turn)
    self.turns = [*asked, ("assistant", answer.text)]
    self.replies.append(reply)
    self.earlier += given
    slots = reply.slots or [None] * len(reply.masks)
    for mask, slot in zip(reply.masks, slots, strict=True):
      self.earlier.append(Earlier(mask.array, slot, turn))

  def _check_still(self, asking):
    if self._asking is not asking:
      raise UserError(
        "this answer was given up: its conversation went on otherwise meanwhile; fork()"
        " it to have two answers at a time"
      )

  def _pointed(self, points, box, mask, refers_to):
    """(hints, slots, where they are shown, masks given) of what a user points at."""
    arrays, data = [mask.array for mask in self.earlier], self._loaded.data
    if not self.has_state:
      mask = hints_lib.chosen(mask, refers_to, arrays)
      return hints_lib.make(points, box, mask, self._views, data), None, (), ()
    meant = hints_lib.chosen(mask, refers_to, arrays)  # tells of a wrong number
    given = () if mask is None else (self._given(mask, len(self.replies)),)
    pick = memory.NONE if refers_to is None else int(refers_to)
    pick = len(arrays) if given else pick
    slots = [earlier.slot for earlier in (*self.earlier, *given)]
    if self._loaded.model.cfg.has_dense_state:
      meant = None  # a slot says it
    hints = hints_lib.make(points, box, meant, self._views, data)
    shown = memory.shown(slots, data, pick)
    return hints, memory.stack([slots], data, [pick]), shown, given
