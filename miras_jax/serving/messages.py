"""Bodies of requests: the OpenAPI page is made of these."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from miras_jax.inference.sampling import HOTTEST, SEEDS

Number = Annotated[float, Field(allow_inf_nan=False)]
Point = tuple[Number, Number, bool]


class Strict(BaseModel):
  """A field that is not known is an error, not passed over."""

  model_config = ConfigDict(extra="forbid")


class Rle(Strict):
  """COCO run-length encoding: size is [height, width], counts a string or runs."""

  size: tuple[int, int]
  counts: str | list[int]


class NewTalk(Strict):
  image: str = Field(description="PNG, JPEG, WebP, BMP or TIFF; base64 or a data URI")
  name: str | None = Field(None, description="what downloads call the image")


class Say(Strict):
  text: str = Field(description="what the user says")
  points: list[Point] = Field([], description="[x, y, inside] in pixels", max_length=64)
  box: tuple[Number, Number, Number, Number] | None = Field(
    None, description="[x0, y0, x1, y1] in pixels, around what is meant"
  )
  mask: Rle | str | None = Field(
    None, description="about what is meant: RLE, or a PNG of one channel in base64"
  )
  refers_to: int | None = Field(
    None,
    strict=True,  # true is no number of a mask
    description="number of an earlier mask of this conversation, in its place",
  )
  temperature: Number = Field(0.0, ge=0, le=HOTTEST, description="0: greedy")
  top_p: Number = Field(1.0, gt=0, le=1)
  seed: int = Field(0, ge=0, lt=SEEDS)
  stream: bool = Field(False, description="answer by server-sent events")
