"""Why a request is not answered, each with its HTTP status.

Any other UserError is 422: what was sent makes no sense.
"""

from miras_jax.errors import UserError


class Refusal(UserError):
  """One clear line for whoever sent the request."""

  status = 422
  headers: dict[str, str] = {}


class Unknown(Refusal):
  status = 404


class Conflict(Refusal):
  status = 409


class TooLarge(Refusal):
  status = 413


class Late(Refusal):
  status = 504


class Failed(Refusal):
  status = 500


class Busy(Refusal):
  """The queue is full."""

  status = 429

  def __init__(self, seconds):
    super().__init__(f"the queue is full; try again in {seconds} s")
    self.headers = {"Retry-After": str(seconds)}


def status_of(error: UserError) -> int:
  return getattr(error, "status", 422)
