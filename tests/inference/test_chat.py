import io

import numpy as np
import pytest
from PIL import Image

from miras_jax.errors import UserError
from miras_jax.inference import chat, command, conversation
from tests import talker


def photo(path, height=20, width=30):
  image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
  Image.fromarray(image).save(path)
  return path


def run(tmp_path, lines, script=lambda prompt, image: ("Sure, [SEG].", ["left"])):
  loaded = talker.loaded(script)
  path = photo(tmp_path / "a.png")
  talk = chat.Chat(
    loaded, loaded.model, path, chat.read_image(path), tmp_path / "masks"
  )
  status = talk.run(io.StringIO("".join(line + "\n" for line in lines)))
  return status, loaded.model


def read(path):
  with Image.open(path) as picture:
    return np.asarray(picture)


def test_piped_questions_are_answered_and_masks_are_named(tmp_path, capsys):
  status, _ = run(tmp_path, ["Where is it?"])
  shown = capsys.readouterr().out
  mask = tmp_path / "masks" / "turn_01_mask_1.png"
  assert status == 0
  assert "miras> Sure, [SEG]." in shown and str(mask) in shown
  assert str(tmp_path / "masks" / "turn_01_overlay.png") in shown


def test_a_second_chat_leaves_the_masks_of_the_first(tmp_path, capsys):
  run(tmp_path, ["Where is it?"])
  before = {path: path.read_bytes() for path in (tmp_path / "masks").iterdir()}
  run(tmp_path, ["Where is it?"], lambda prompt, image: ("Sure, [SEG].", ["top"]))
  assert {path: path.read_bytes() for path in before} == before
  assert len(list((tmp_path / "masks").iterdir())) == 2 * len(before)
  assert "masks of an earlier chat; these begin at turn_02" in capsys.readouterr().out


def test_two_chats_at_a_time_write_beside_each_other(tmp_path):
  loaded = talker.loaded(lambda prompt, image: ("Sure, [SEG].", ["left"]))
  image, out = chat.read_image(photo(tmp_path / "a.png")), tmp_path / "masks"
  for talk in [chat.Chat(loaded, loaded.model, "a", image, out) for _ in range(2)]:
    talk.run(io.StringIO("Where is it?\n"))
  assert len(list(out.glob("turn_0[12]_mask_1.png"))) == 2


def test_mask_has_the_size_of_the_image_and_the_side_the_model_meant(tmp_path):
  run(tmp_path, ["Where is it?"])
  mask = read(tmp_path / "masks" / "turn_01_mask_1.png")
  assert mask.shape == (20, 30)
  # "left" of the 16-pixel canvas, of which the image fills the full width.
  assert mask[:, :14].all() and not mask[:, 16:].any()


def test_later_turns_see_the_earlier_ones(tmp_path):
  _, generator = run(tmp_path, ["first question", "second question"])
  assert "first question" in generator.prompts[1]
  assert "Sure, [SEG]." in generator.prompts[1]


def test_reset_forgets_the_turns(tmp_path):
  _, generator = run(tmp_path, ["first question", "/reset", "second question"])
  assert "first question" not in generator.prompts[1]


def test_image_command_changes_image_and_forgets_the_turns(tmp_path, capsys):
  other = photo(tmp_path / "b.png", 40, 12)
  _, generator = run(tmp_path, ["first question", f"/image {other}", "second"])
  assert read(tmp_path / "masks" / "turn_02_mask_1.png").shape == (40, 12)
  assert "first question" not in generator.prompts[1]


def test_quit_ends_before_the_rest(tmp_path):
  _, generator = run(tmp_path, ["one", "/quit", "two"])
  assert len(generator.prompts) == 1


@pytest.mark.parametrize(
  "line, words",
  [("/nonsense", "no command '/nonsense'"), ("/image", "/image wants a file: /image"),
   ("/mask", "/mask wants a file"), ("/mask none.png", "this model looks at no earl")],
)  # fmt: skip
def test_a_bad_command_is_one_line_and_the_talk_goes_on(tmp_path, capsys, line, words):
  status, generator = run(tmp_path, [line, "Where is it?"])
  assert len(generator.prompts) == 1
  assert status == 1  # of the script: its last line could be done, not all of them
  told, in_the_end = capsys.readouterr().err.splitlines()
  assert told.startswith(f"error: {words}")
  assert in_the_end == "error: 1 line of the script could not be done"


def test_question_that_does_not_fit_is_refused_and_forgotten(tmp_path, capsys):
  _, generator = run(tmp_path, ["long " * 2000, "Where is it?"])
  assert "error:" in capsys.readouterr().err
  assert len(generator.prompts) == 1 and "long long" not in generator.prompts[0]


def test_more_seg_than_the_model_can_draw_is_said(tmp_path, capsys):
  script = lambda prompt, image: ("[SEG][SEG][SEG]", ["left", "top", "all"])  # noqa: E731
  run(tmp_path, ["all of them"], script)
  assert "only 2 get a mask" in capsys.readouterr().out


def test_typed_control_tokens_stay_text(tmp_path):
  _, generator = run(tmp_path, ["what is [SEG] here?"])
  assert "[SEG]" in generator.prompts[0]
  assert generator.tokenizer.ids.seg not in generator.tokens[0]


def test_answer_cannot_drive_the_terminal(tmp_path, capsys):
  run(tmp_path, ["hello"], lambda prompt, image: ("\x1b[31mred\x07", []))
  assert "\x1b" not in capsys.readouterr().out


def test_image_is_checked_before_the_checkpoint_is_read(tmp_path):
  (tmp_path / "a.png").write_bytes(b"no image")
  with pytest.raises(UserError, match="a.png.*not an image"):
    command.main(["--checkpoint=/no/such", f"--image={tmp_path / 'a.png'}"])


def test_the_folder_for_masks_is_checked_before_the_checkpoint_is_read(tmp_path):
  path = str(photo(tmp_path / "a.png"))
  with pytest.raises(UserError, match="--out=.*a.png: cannot be used"):
    command.main(["--checkpoint=none", f"--image={path}", f"--out={path}"])


def test_missing_checkpoint_is_a_users_mistake(tmp_path):
  path = photo(tmp_path / "a.png")
  with pytest.raises(UserError, match="no such checkpoint"):
    command.main([f"--checkpoint={tmp_path / 'none'}", f"--image={path}"])


def test_help_teaches_by_example(capsys):
  with pytest.raises(SystemExit) as stop:
    command.main(["--help"])
  assert stop.value.code == 0
  assert "printf" in capsys.readouterr().out


def test_old_answers_with_many_seg_do_not_overflow_the_prompt():
  tok, data = talker.tokenizer(), talker.data_config()
  turns = [("user", "a"), ("assistant", "[SEG]" * 5), ("user", "b")]
  prompt = conversation.prompt_of(turns, tok, data)
  assert prompt.dropped_rounds == 0 and (prompt.tokens == tok.ids.seg).sum() == 5
