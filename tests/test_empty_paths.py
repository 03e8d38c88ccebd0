"""An empty path on the command line: a variable of the shell that is not set."""

import importlib

import pytest

from miras_jax.errors import UserError
from miras_jax.inference.predictor import Predictor

COMMANDS = (
  ("miras_jax.training.command", ["--config=configs/own.py", "--workdir="]),
  ("miras_jax.evaluation.command", ["--checkpoint=", "--out=x"]),
  ("miras_jax.evaluation.command", ["--checkpoint=x", "--out", ""]),
  ("miras_jax.inference.command", ["--checkpoint=", "--image=a.png"]),
  ("miras_jax.scale.command", ["--config=configs/own.py", "--out="]),
)


@pytest.mark.parametrize("module, argv", COMMANDS)
def test_a_command_names_the_option_and_does_nothing(module, argv):

  with pytest.raises(UserError, match=r"--\w+= is empty: name a path"):
    importlib.import_module(module).main(argv)


def test_a_model_is_not_looked_for_in_the_current_folder():
  with pytest.raises(UserError, match="empty path"):
    Predictor.load("")
