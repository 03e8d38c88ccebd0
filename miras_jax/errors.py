"""The one error a user is meant to see.

Raise `UserError` for every mistake that the person at the keyboard can mend: a missing
folder, a misspelt option, a damaged file. The command line prints its single line
(and `details`) and exits 1; anything else is a bug and keeps its traceback.
"""


class UserError(Exception):
  """A mistake of the user: names the thing, the value found and the remedy.

  details: a table or tree for the lines below, which keeps its line breaks.
  """

  def __init__(self, *args, details: str = ""):
    super().__init__(*args)
    self.details = details

  def __str__(self):
    return "\n".join(filter(None, (super().__str__(), self.details)))
