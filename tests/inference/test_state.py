"""Earlier masks in conversations, with a real tiny model that looks at them."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline.slots import fill
from miras_jax.errors import UserError
from miras_jax.inference import chat, memory
from miras_jax.inference.predictor import Predictor
from miras_jax.inference.rollout import Forced, Job, Rollout
from tests import talker, tiny_loaded
from tests.inference.test_rollout import JOBS, NEW, views

LOADED = tiny_loaded.loaded("dense")
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
LEFT = np.arange(32)[None] < np.full((32, 1), 16)
ASKED = "the left half, the right half"


def said(jobs, batch_size, **options):
  generator = LOADED.generator(NEW)
  return Rollout(LOADED, generator, views, batch_size=batch_size, **options).run(jobs)


@pytest.fixture(scope="module")
def together():
  return said(JOBS, 4)


def test_a_batch_says_what_each_conversation_says_alone(together):
  for found, alone in zip(together, said(JOBS, 1), strict=True):
    for a, b in zip(found, alone, strict=True):
      assert a.text == b.text
      np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)


def test_earlier_masks_change_later_ones_and_no_word(together):
  blind = said(JOBS, 4, earlier=False)
  assert [[a.text for a in job] for job in together] == [
    [a.text for a in job] for job in blind
  ]
  first, later = [], []
  for job, other in zip(together, blind, strict=True):
    begun = False
    for a, b in zip(job, other, strict=True):
      if len(a.logits):
        (later if begun else first).append(np.abs(a.logits - b.logits).max())
        begun = True
  assert max(first) < 1e-5 and min(later) > 1e-3


def test_without_slots_answers_are_bit_for_bit_those_of_a_model_without_state():
  plain = tiny_loaded.loaded()
  params = {k: v for k, v in LOADED.params.items() if k != "state"}
  plain = plain._replace(params=params)
  runs = (
    Rollout(loaded, loaded.generator(NEW), views, batch_size=4, earlier=False).run(JOBS)
    for loaded in (LOADED, plain)
  )
  for ours, theirs in zip(*runs, strict=True):
    for a, b in zip(ours, theirs, strict=True):
      assert a.text == b.text
      np.testing.assert_array_equal(a.logits, b.logits)


def test_slots_that_are_given_take_the_place_of_the_models_own(together):
  slot = memory.Slot(np.zeros((LOADED.data.slot_side,) * 2, np.uint8))
  job = Job(JOBS[1].image, JOBS[1].questions, slots=lambda turn: [slot] * (turn > 0))
  given = said([job], 1)[0]
  own = together[1]
  turn = next(t for t, a in enumerate(own) if t and len(a.logits))
  assert np.abs(given[turn].logits - own[turn].logits).max() > 1e-3


def test_stack_keeps_the_latest_and_the_one_that_is_picked():
  side = LOADED.data.slot_side
  slots = [memory.Slot(np.full((side, side), n, np.uint8)) for n in range(5)]
  made = memory.stack([slots, ()], LOADED.data, [0, memory.NONE])
  assert made["masks"][0, :, 0, 0].tolist() == [0, 3, 4]
  assert made["pick"].tolist() == [0, -1] and not made["valid"][1].any()
  assert memory.stack([(), ()], LOADED.data) is None


def test_a_logit_of_0_is_half_inside():
  slot = memory.of_logits(np.array([[0.0, 50.0], [-50.0, 0.0]]))
  assert slot.cells_QQ.tolist() == [[128, 255], [0, 128]]


def conversation():
  return Predictor(LOADED, max_new_tokens=NEW).start(PIXELS)


def test_a_mask_of_the_users_is_an_earlier_mask():
  talk, other = conversation(), conversation()
  assert talk.remember(LEFT) == 0
  mine, theirs = talk.say(ASKED), other.say(ASKED)
  assert mine.text == theirs.text and len(mine.masks)
  assert talk.earlier[0].slot.origin == fill.USER
  assert len(talk.earlier) == 1 + len(mine.masks)
  assert mine.masks[0].iou != theirs.masks[0].iou


def test_undo_forgets_the_masks_of_the_turn_and_keeps_the_users():
  talk = conversation()
  talk.remember(LEFT)
  talk.say(ASKED)
  talk.undo()
  assert len(talk.earlier) == 1


def test_masks_that_are_no_longer_seen_are_told_once(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(chat.Chat, "_unseen", lambda self, dropped_rounds: 1)
  run_chat(tmp_path, ["Thanks.", "Thanks.", "/reset", "Thanks."])
  assert capsys.readouterr().out.count("no longer seen: object 1;") == 2


def test_a_number_without_a_mask_is_one_line():
  with pytest.raises(UserError, match="refers_to=8"):
    conversation().say(ASKED, refers_to=8)


@pytest.mark.parametrize(
  "mask, reason",
  [
    (np.zeros((32, 32), bool), "no pixel"),
    (np.ones((4, 4), bool), r"is \(4, 4\), the image \(32, 32\)"),
    ({"size": [64, 64], "counts": [0, 64 * 64]}, r"is \(64, 64\), the image"),
    ({"size": [4, 4], "counts": [0, 16]}, r"is \(4, 4\), the image"),
  ],
)
def test_a_mask_that_is_empty_or_of_another_size_is_one_line(mask, reason):
  with pytest.raises(UserError, match="mask=.*" + reason):
    conversation().remember(mask)


def run_chat(tmp_path, lines, loaded=LOADED):
  path = tmp_path / "a.png"
  Image.fromarray(PIXELS).save(path)
  Image.fromarray(np.uint8(255 * LEFT)).save(tmp_path / "left.png")
  generator = loaded.generator(NEW)
  talk = chat.Chat(loaded, generator, path, chat.read_image(path), tmp_path / "masks")
  return talk.run(io.StringIO("".join(line + "\n" for line in lines)))


def test_chat_takes_a_mask_from_a_file_and_one_says_object_1(tmp_path, capsys):
  assert run_chat(tmp_path, [f"/mask {tmp_path}/left.png", "object 1 which one"]) == 0
  shown = capsys.readouterr()
  assert "left.png is object 1 (50.0% of the image)." in shown.out and not shown.err


def test_chat_says_when_old_masks_are_no_longer_seen(tmp_path, capsys):
  """There are three slots."""
  run_chat(tmp_path, [f"/mask {tmp_path}/left.png"] * 4 + ["object 1 " + ASKED])
  lines = capsys.readouterr().out.splitlines()
  made = sum(line.startswith("  mask:") for line in lines)
  assert (
    made
    and f"  (no longer seen: objects 1 to {1 + made}; name one, and it is)" in lines
  )


def test_an_object_that_does_not_exist_is_one_line_and_the_talk_goes_on(
  tmp_path, capsys
):
  run_chat(tmp_path, ["[REF:9] again", "which one"])
  shown = capsys.readouterr()
  told, in_the_end = shown.err.splitlines()
  assert told == "error: object 9: the masks so far are none yet"
  assert "1 line of the script" in in_the_end
  assert "miras>" in shown.out


def test_an_object_past_the_last_one_is_told_in_the_numbers_that_one_says(
  tmp_path, capsys
):
  lines = [f"/mask {tmp_path}/left.png"] * 2 + ["object 3 which one"]
  run_chat(tmp_path, lines)
  told = capsys.readouterr().err.splitlines()[0]
  assert told == "error: object 3: the masks so far are objects 1 to 2"


def test_a_model_without_state_refuses_a_mask_in_one_line(tmp_path, capsys):
  # Whatever the file: nobody is to mend one that is of no use.
  for name in ("none.png", "left.png"):
    lines = [f"/mask {tmp_path}/{name}"]
    run_chat(tmp_path, lines, talker.loaded(lambda *_: ("Yes.", [])))
    assert "model.state=none" in capsys.readouterr().err


@pytest.mark.parametrize("reference", ["[REF:9]", "object 2"])
def test_a_model_without_state_says_that_it_reads_a_reference_as_words(
  reference, tmp_path, capsys
):
  run_chat(tmp_path, [f"{reference} again"], talker.loaded(lambda *_: ("Yes.", [])))
  shown = capsys.readouterr().out
  assert f'no earlier masks: "{reference}" is read as words' in shown
  assert "miras> Yes." in shown


def test_objects_of_a_text_are_those_it_names():
  assert chat.objects_of("object 2 and [REF:3]") == [1, 2]
  assert chat.objects_of("the same as Object 2, please") == [1]
  assert chat.objects_of("an object") == []


@pytest.mark.parametrize(
  "name", ["[REF:1.5]", "[REF:abc]", "[REF:]", "[REF:", "[REF:1"]
)
def test_a_reference_without_a_number_is_one_line_and_the_talk_goes_on(
  name, tmp_path, capsys
):
  run_chat(tmp_path, ["again " + name, "which one"])
  shown = capsys.readouterr()
  assert "want the number of a mask, [REF:2]" in shown.err
  assert "miras>" in shown.out


@pytest.mark.parametrize(
  "said, number",
  [("[REF:0]", 0), ("[REF:-1]", -1), ("[REF:12345]", 12345), ("object 0", 0),
   ("object 99999", 99999)],
)  # fmt: skip
def test_a_reference_to_no_mask_is_refused_whatever_its_number(
  said, number, tmp_path, capsys
):
  run_chat(tmp_path, [f"/mask {tmp_path}/left.png", f"{said} which one"])
  told = capsys.readouterr().err.splitlines()[0]
  assert told == f"error: object {number}: the masks so far are object 1"


def test_chat_says_which_object_a_text_picks_and_when_it_picks_none(tmp_path, capsys):
  lines = [f"/mask {tmp_path}/left.png"] * 2
  run_chat(tmp_path, [*lines, "object 2 which one", "object 1 and object 2"])
  shown = capsys.readouterr().out
  assert "  (about object 2)" in shown
  assert "  (several objects are named: none of them is picked)" in shown


def test_a_mask_without_a_free_slot_is_told_when_it_is_given(tmp_path, capsys):
  """There are three slots."""
  run_chat(tmp_path, [f"/mask {tmp_path}/left.png"] * 4)
  assert "no longer seen: object 1;" in capsys.readouterr().out


def test_masks_of_an_answer_are_shown_with_their_object_numbers(tmp_path, capsys):
  run_chat(tmp_path, [f"/mask {tmp_path}/left.png", "object 1 " + ASKED])
  masks = [x for x in capsys.readouterr().out.splitlines() if x.startswith("  mask:")]
  assert masks[0].endswith("of the image, object 2)")


@pytest.mark.parametrize("earlier", [True, False])
def test_forced_masks_see_gold_masks(earlier):
  from tests.evaluation.test_state import record

  forced = Forced(LOADED, views, batch_size=1, earlier=earlier)
  two = record(2)
  masks = forced.masks({0: two})[0]
  blind = Forced(LOADED, views, batch_size=1, earlier=False).masks({0: two})[0]
  np.testing.assert_allclose(masks[0], blind[0], atol=1e-5)
  assert (np.abs(masks[1] - blind[1]).max() > 1e-3) == earlier
