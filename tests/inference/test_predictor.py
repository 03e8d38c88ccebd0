"""The Python API: forms of images, what a reply holds, what a user may point at."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import mask_ops
from input_pipeline.conversation import ConversationError
from miras_jax.errors import UserError
from miras_jax.inference.conversation import prompt_of
from miras_jax.inference.masks import Mask, seg_spans
from miras_jax.inference.predictor import Predictor
from tests import talker, tiny_loaded

PIXELS = np.full((8, 12, 3), 90, np.uint8)


def script(prompt, image):
  if "which one" in prompt:
    return "Sure, [OBJ]the cup[SEG] and [SEG].", ["left", "top"]
  return "It is there.", []


@pytest.fixture
def predictor():
  return Predictor(talker.loaded(script))


def png():
  stream = io.BytesIO()
  Image.fromarray(PIXELS).save(stream, "PNG")
  return stream.getvalue()


def cut_short():
  """A picture that PIL has opened, whose pixels it cannot read."""
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  stream = io.BytesIO()
  Image.fromarray(noise).save(stream, "PNG")
  return Image.open(io.BytesIO(stream.getvalue()[:3000]))


def image_forms(tmp_path):
  (tmp_path / "a.png").write_bytes(png())
  path = tmp_path / "a.png"
  return [
    path,
    str(path),
    png(),
    bytearray(png()),
    PIXELS,
    Image.fromarray(PIXELS).convert("L"),
  ]


def test_an_image_may_be_a_path_bytes_pixels_or_a_picture(tmp_path, predictor):
  for image in image_forms(tmp_path):
    assert predictor.start(image).size == (8, 12)


@pytest.mark.parametrize("image", [
  b"no image", np.zeros((4, 4)), "/no/such.png", 7, np.zeros((0, 4, 3), np.uint8),
  Image.new("RGB", (0, 0)), cut_short(),
])  # fmt: skip
def test_what_is_no_image_is_one_line(predictor, image):
  with pytest.raises(UserError, match="image"):
    predictor.start(image)


def test_a_reply_has_text_masks_scores_and_words(predictor):
  reply = predictor.start(PIXELS).say("which one")
  left, top = reply.masks
  assert left.array.shape == (8, 12) and left.array[:, :6].all()
  assert not left.array[:, 6:].any() and top.iou == 0.5
  assert reply.text[slice(*left.span)].endswith("[SEG]")
  assert [reply.text[slice(*m.span)][-5:] for m in reply.masks] == ["[SEG]"] * 2


def test_words_of_a_mask_begin_at_its_name():
  text = "Sure, [OBJ]the cup[SEG] and [SEG]."
  assert [text[a:b] for a, b in seg_spans(text)] == ["[OBJ]the cup[SEG]", "[SEG]"]


def test_a_mask_is_had_as_rle_and_outlines():
  array = np.zeros((8, 9), bool)
  array[1:7, 1:7] = True
  array[3:5, 3:5] = False
  mask = Mask(array, 0.9, (0, 5))
  np.testing.assert_array_equal(mask_ops.decode_rle(mask.rle()), array)
  assert len(mask.polygons()) == 2  # the outline and the hole


def test_a_stream_gives_the_text_and_then_the_reply(predictor):
  chat = predictor.start(PIXELS)
  *_, last = chat.stream("which one")
  assert last == chat.replies[-1].text and len(chat.replies[-1].masks) == 2


def test_a_stream_that_is_not_read_is_not_remembered(predictor):
  chat = predictor.start(PIXELS)
  next(chat.stream("which one"))
  assert chat.turns == [] and chat.replies == []


@pytest.mark.parametrize(
  "meanwhile",
  [
    lambda chat: chat.say("Where is it?"),
    lambda chat: list(chat.stream("Where is it?")),
    lambda chat: chat.undo(),
    lambda chat: chat.reset(),
  ],
)
def test_an_answer_that_its_conversation_went_past_is_given_up(predictor, meanwhile):
  chat = predictor.start(PIXELS)
  chat.say("cup")
  stream = chat.stream("which one")
  next(stream)
  meanwhile(chat)
  turns = list(chat.turns)
  with pytest.raises(UserError, match="was given up"):
    list(stream)
  assert chat.turns == turns
  assert chat.say("which one").masks


def test_a_fork_leaves_the_answer_under_way_alone(predictor):
  chat = predictor.start(PIXELS)
  stream = chat.stream("which one")
  next(stream)
  assert chat.fork().turns == []
  assert list(stream)[-1] == chat.replies[-1].text


@pytest.mark.parametrize("chunk", [0, -1, 1.5, "a", True, 2**31])
def test_a_chunk_that_no_answer_can_grow_by_is_one_line(predictor, chunk):
  chat = predictor.start(PIXELS)
  with pytest.raises(UserError, match="chunk="):
    list(chat.stream("which one", chunk=chunk))
  assert list(chat.stream("which one", chunk=np.int64(3)))


def test_a_mask_may_be_given_in_each_form_that_an_answer_has_it(predictor):
  chat = predictor.start(PIXELS)
  left = chat.say("which one").masks[0]
  seen = []
  for mask in (left, left.array, left.rle()):
    chat.fork().say("which one", mask=mask)
    seen.append(predictor.loaded.model.hints["masks"])
  np.testing.assert_array_equal(seen[0], seen[1])
  np.testing.assert_array_equal(seen[0], seen[2])


def test_undo_fork_and_reset(predictor):
  chat = predictor.start(PIXELS)
  chat.say("Where is it?")
  other = chat.fork()
  other.say("which one")
  assert (len(chat.turns), len(other.turns)) == (2, 4)
  other.undo()
  assert other.turns == chat.turns
  chat.reset()
  assert (chat.turns, len(other.turns)) == ([], 2)


def test_what_a_user_points_at_reaches_the_mask_decoder(predictor):
  chat = predictor.start(PIXELS)
  chat.say("which one", points=[(11, 7, True), (0, 0, False)], box=(0, 0, 6, 8))
  hints = predictor.loaded.model.hints
  at, labels = hints["points"]
  np.testing.assert_array_equal(labels[0, 0, :3], [1, 0, -1])
  assert at.shape == (1, 1, 16, 2)
  scale = 16 / 12  # the longest side becomes the canvas
  np.testing.assert_allclose(at[0, 0, 0], [11 * scale, 7 * 11 / 8], atol=1e-5)
  assert hints["boxes"].shape == (1, 1, 4)
  chat.say("Where is it?")
  assert predictor.loaded.model.hints is None


def test_an_earlier_mask_can_be_meant(predictor):
  chat = predictor.start(PIXELS)
  chat.say("which one")
  chat.say("which one", refers_to=1)
  mask = predictor.loaded.model.hints["masks"][0, 0]
  assert mask.shape == (16, 16)
  assert mask[0].min() > 0 and mask[-1].max() < 0  # the upper half


@pytest.mark.parametrize(
  "hint, message",
  [
    ({"points": [(13, 1, True)]}, "outside of the image of 12x8 pixels"),
    ({"points": [(1, 1)]}, "want \\(x, y, inside\\)"),
    ({"points": [(1, 1, True)] * 17}, "has 17 points, the limit is 16"),
    ({"box": (5, 1, 2, 4)}, "x0 < x1"),
    ({"box": (float("nan"), 1, 2, 4)}, "x0 < x1"),
    ({"mask": np.ones((4, 4), bool)}, "is \\(4, 4\\), the image \\(8, 12\\)"),
    ({"mask": np.zeros((8, 12), bool)}, "has no pixel"),
    ({"mask": np.full((8, 12), -1)}, "values below 0"),
    ({"mask": np.full((8, 12), 0.3)}, "is float64, want bool"),
    ({"mask": [[1], [1, 2]]}, "rows of several lengths"),
    ({"mask": "all of it"}, "want bool"),
    ({"mask": {"size": [8, 12], "counts": [5]}}, "RLE"),
    ({"mask": {}}, "RLE"),
    ({"mask": Mask(np.ones((4, 4), bool), 0.5, (0, 1))}, "is \\(4, 4\\)"),
    ({"points": [(1, 1, float("nan"))]}, "inside True or False"),
    ({"refers_to": 0}, "the masks so far are none yet"),
    ({"refers_to": True}, "the masks so far are none yet"),
    ({"points": 5}, "want \\[\\(x, y, inside\\)"),
    ({"points": [1, 2, True]}, "want \\(x, y, inside\\)"),
    ({"points": [("a", 1, True)]}, "want \\(x, y, inside\\)"),
    ({"box": 5}, "want \\(x0, y0, x1, y1\\)"),
    ({"box": "abcd"}, "want \\(x0, y0, x1, y1\\)"),
    ({"box": (None, 0, 5, 5)}, "want \\(x0, y0, x1, y1\\)|x0 < x1"),
    ({"temperature": -1}, "temperature=-1 is not within 0 to 10"),
    ({"temperature": float("nan")}, "temperature=nan"),
    ({"temperature": "hot"}, "temperature='hot'"),
    ({"top_p": 0.0}, "top_p=0.0 must be more than 0"),
    ({"seed": -1}, "seed=-1 is no whole number"),
    ({"seed": 2**40}, "seed=1099511627776"),
  ],
)
def test_a_wrong_hint_is_one_line_and_the_conversation_goes_on(
  predictor, hint, message
):
  chat = predictor.start(PIXELS)
  with pytest.raises(UserError, match=message):
    chat.say("which one", **hint)
  assert chat.turns == []
  assert chat.say("which one").masks


@pytest.mark.parametrize(
  "text, message",
  [(None, "a NoneType, want a str"), (b"which one", "a bytes, want"), (" \n", "empty"),
   ("a\ud800", "not valid Unicode")],
)  # fmt: skip
def test_what_is_no_text_is_one_line_and_the_conversation_goes_on(
  predictor, text, message
):
  chat = predictor.start(PIXELS)
  with pytest.raises(UserError, match=message):
    chat.say(text)
  assert chat.turns == [] and chat.say("which one").masks


def test_control_tokens_that_a_user_types_are_words(predictor):
  chat = predictor.start(PIXELS)
  typed = "which one [SEG]</s> [OBJ] <image>"
  chat.say(typed)
  prompt = prompt_of(
    [("user", typed)], predictor.loaded.tokenizer, predictor.loaded.data
  )
  ids = predictor.loaded.tokenizer.ids
  text_ids = prompt.tokens[prompt.image_slot < 0].tolist()
  assert ids.seg not in text_ids and ids.obj not in text_ids
  assert chat.turns[0] == ("user", typed)


def test_nothing_to_undo_is_one_line(predictor):
  with pytest.raises(UserError, match="nothing has been said"):
    predictor.start(PIXELS).undo()


def test_a_text_past_the_row_is_refused_and_forgotten(predictor):
  chat = predictor.start(PIXELS)
  with pytest.raises(ConversationError):
    chat.say("long " * 400)
  assert chat.turns == [] and chat.say("which one").masks


@pytest.mark.parametrize(
  "options, message",
  [({"weights": "int4"}, "weights='int4': there are trained, int8"),
   ({"mesh": 4}, "want a text such as"), ({"mesh": "data:999"}, "wants 999 devices")],
)  # fmt: skip
def test_a_wrong_place_for_a_model_is_one_line(options, message):
  with pytest.raises(UserError, match=message):
    Predictor.load("/no/such", **options)


def test_a_checkpoint_that_is_no_path_is_one_line():
  with pytest.raises(UserError, match="checkpoint of type NoneType"):
    Predictor.load(None)


def test_the_package_exports_it():
  import miras_jax

  assert miras_jax.Predictor is Predictor


def test_each_seg_has_its_mask_where_rows_of_training_had_room_for_one_a_talk():
  loaded = tiny_loaded.loaded()
  one = loaded._replace(data=dataclasses.replace(loaded.data, max_masks=1))
  reply = Predictor(one, max_new_tokens=12).start(PIXELS).say("the left half")
  assert 1 < reply.num_seg == len(reply.masks)
