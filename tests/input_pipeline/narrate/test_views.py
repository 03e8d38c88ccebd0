"""Views of a photograph: its mirror image and crops, with masks that fit."""

import numpy as np
import pytest

from input_pipeline import image_ops, mask_ops
from input_pipeline.narrate.views import MOST_CUT, view
from input_pipeline.narrate.wordings import Wordings
from input_pipeline.narrate.write import write
from tests.input_pipeline.narrate.drawn import BACKGROUND, draw, street

WORDS = Wordings.load()


def test_view_0_is_the_photograph_itself():
  photo, image = street()
  assert view(photo, image, 0) == (photo, image)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_masks_lie_on_what_they_lay_on(number):
  photo, image = street()
  changed, image_HWC = view(photo, image, number)
  assert (changed.height, changed.width) == image_HWC.shape[:2]
  decoded = image_ops.decode_image(changed.image).astype(int)
  assert np.abs(decoded - image_HWC).mean() < 4
  labelled = np.zeros(image_HWC.shape[:2], bool)
  for region in changed.regions:
    labelled |= mask_ops.decode_rle(region.rle) > 0
  assert np.array_equal(labelled, (image_HWC != BACKGROUND).any(-1))


def test_the_mirror_image_has_its_left_on_the_right():
  photo, image = street()
  changed, image_HWC = view(photo, image, 1)
  assert np.array_equal(image_HWC, image[:, ::-1])
  talks = [
    (turns, targets)
    for key in "abc"
    for turns, targets in write(
      changed, image_HWC, key, wordings=WORDS, per_photo=12, mix={"narrow": 1}
    )
    if any("leftmost" in text for _, text in turns)
  ]
  assert any(targets[0][0] == "bag" for _, targets in talks)


def test_a_crop_keeps_most_and_differs_from_the_next():
  photo, image = street()
  shapes = {view(photo, image, number)[1].shape for number in (2, 4, 6, 8)}
  assert len(shapes) > 1
  least = [int(side * (1 - 2 * MOST_CUT)) for side in image.shape[:2]]
  assert all(h >= least[0] and w >= least[1] for h, w, _ in shapes)


def test_what_a_crop_leaves_out_is_not_there_and_parts_stay_with_their_whole():
  photo, image = draw(
    ("hat", (40, 0, 60, 1), "red"),
    ("car", (30, 40, 90, 60), "blue"),
    ("wheel", (40, 50, 50, 60), "black", 1),
  )
  cut = [view(photo, image, number)[0] for number in range(2, 30)]
  without = [c for c in cut if [r.name for r in c.regions] == ["car", "wheel"]]
  assert without and all(c.regions[1].part_of == 0 for c in without)
