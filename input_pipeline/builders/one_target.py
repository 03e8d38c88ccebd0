"""The record that most sources become: something is asked for, one mask answers."""

from input_pipeline.builders import wording
from input_pipeline.builders.photographs import Photo
from input_pipeline.records import SEG_TOKEN, SegConversation


def one_target(
  *, source: str, id: str, photo: Photo, image_id: str, phrase: str, rle: dict
) -> SegConversation:
  """A question for `phrase` and the answer that holds its mask. Which wordings are
  chosen depends on source and id alone."""
  key = f"{source}/{id}"
  question = wording.choose("phrase", key, phrase=phrase)
  answer = wording.choose("answer", key, seg=SEG_TOKEN)
  return SegConversation(
    id=id,
    source=source,
    image=photo.data,
    turns=(("user", question), ("assistant", answer)),
    targets=((phrase, rle),),
    image_id=image_id,
  )
