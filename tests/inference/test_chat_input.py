"""What a script or a terminal may hand to chat, text or not."""

import io
import signal

import pytest

from miras_jax.errors import UserError
from miras_jax.inference import chat
from tests import talker
from tests.inference.test_chat import photo


def talk(tmp_path):
  loaded = talker.loaded(lambda prompt, image: ("Sure, [SEG].", ["left"]))
  path = photo(tmp_path / "a.png")
  image = chat.read_image(path)
  return chat.Chat(loaded, loaded.model, path, image, tmp_path / "masks"), loaded.model


class Terminal(io.StringIO):
  def isatty(self):
    return True


def typed(monkeypatch, *lines):
  """A terminal at which these lines are typed; an exception among them is raised."""
  left = list(lines)

  def answer(prompt):
    if not left:
      raise EOFError
    line = left.pop(0)
    if not isinstance(line, str):
      raise line
    return line

  monkeypatch.setattr("builtins.input", answer)
  return Terminal()


def script(data):
  """Bytes as standard input hands them over (`streams.prepare`)."""
  return io.TextIOWrapper(io.BytesIO(data), "utf-8", errors="surrogateescape")


def test_line_that_is_no_text_is_named_and_the_talk_goes_on(tmp_path, capsys):
  chatting, generator = talk(tmp_path)
  assert chatting.run(script(b"where\xff?\nWhere is it?\n")) == 1
  assert "error: this line is not valid UTF-8: where" in capsys.readouterr().err
  assert len(generator.prompts) == 1


def test_typed_line_that_is_no_text_is_named_and_the_talk_goes_on(
  tmp_path, capsys, monkeypatch
):
  chatting, generator = talk(tmp_path)
  broken = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
  assert chatting.run(typed(monkeypatch, broken, "Where is it?")) == 0
  assert "not valid UTF-8" in capsys.readouterr().err
  assert len(generator.prompts) == 1


def test_script_ends_where_its_image_is_missing(tmp_path):
  chatting, generator = talk(tmp_path)
  lines = b"Where is it?\n/image /no/where.jpg\nWhere is it?\n"
  with pytest.raises(UserError, match="/no/where.jpg: no such.*the script ends here"):
    chatting.run(script(lines))
  assert len(generator.prompts) == 1


def test_script_ends_where_its_image_is_none(tmp_path):
  (tmp_path / "b.png").write_bytes(b"no image")
  chatting, _ = talk(tmp_path)
  with pytest.raises(UserError, match="not an image.*the script ends here"):
    chatting.run(script(f"/image {tmp_path / 'b.png'}\n".encode()))


def test_terminal_goes_on_after_a_missing_image(tmp_path, capsys, monkeypatch):
  chatting, generator = talk(tmp_path)
  assert chatting.run(typed(monkeypatch, "/image /no/where.jpg", "Where is it?")) == 0
  assert "no such image file" in capsys.readouterr().err
  assert len(generator.prompts) == 1


def test_input_without_end_of_line_is_refused(tmp_path):
  chatting, _ = talk(tmp_path)
  with pytest.raises(UserError, match="is this a text"):
    chatting.run(script(b"x" * (chat.MAX_LINE + 1)))


@pytest.fixture
def listening():
  """Python's own handler: a process that a shell put behind ignores Ctrl-C."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def ctrl_c(generator, question):
  """Has SIGINT come while this question is read."""
  answers = generator.script

  def script(prompt, image):
    if prompt.count(question):
      signal.raise_signal(signal.SIGINT)
    return answers(prompt, image)

  generator.script = script


@pytest.mark.usefixtures("listening")
def test_ctrl_c_at_a_terminal_gives_up_the_answer_alone(tmp_path, capsys, monkeypatch):
  chatting, generator = talk(tmp_path)
  ctrl_c(generator, "which one")
  assert chatting.run(typed(monkeypatch, "Where is it?", "which one", "cup")) == 0
  assert capsys.readouterr().err.count("error: stopped") == 1
  assert "Where is it?" in generator.prompts[2]
  assert "which one" not in generator.prompts[2]
  assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_ctrl_c_at_the_prompt_drops_what_was_typed_alone(tmp_path, capsys, monkeypatch):
  chatting, generator = talk(tmp_path)
  assert chatting.run(typed(monkeypatch, KeyboardInterrupt(), "Where is it?")) == 0
  assert "/quit leaves" in capsys.readouterr().out
  assert len(generator.prompts) == 1


@pytest.mark.usefixtures("listening")
def test_ctrl_c_ends_a_script(tmp_path):
  chatting, generator = talk(tmp_path)
  ctrl_c(generator, "which one")
  with pytest.raises(KeyboardInterrupt):
    chatting.run(script(b"Where is it?\nwhich one\ncup\n"))
  assert len(generator.prompts) == 2


def test_masks_that_cannot_be_written_are_named_and_the_talk_goes_on(tmp_path, capsys):
  chatting, generator = talk(tmp_path)
  (tmp_path / "masks").write_text("a file")
  assert chatting.run(script(b"Where is it?\nAgain?\n")) == 1
  assert capsys.readouterr().err.count("cannot be written") == 2
  assert len(generator.prompts) == 2
