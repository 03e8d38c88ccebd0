"""Every shape of labelme is drawn as labelme draws it, and named where it cannot be."""

import base64

import numpy as np
import pytest
from PIL import Image, ImageDraw

from input_pipeline import labelme, labelme_shapes, mask_ops, prist
from tests import prist_files
from tests.input_pipeline.test_hostile import png_of_two_sizes

HEIGHT, WIDTH = 48, 64
ELLIPSE = np.zeros((9, 13), np.uint8)
ELLIPSE[2:7, 1:12] = 1


def text(image):
  return base64.b64encode(prist_files.encode(image)).decode()


def parse(kind, points, **more):
  raw = prist_files.shape("cup", points, kind) | more
  return labelme.parse_annotation({"shapes": [raw]}).shapes[0]


def mask_shape(points, image=ELLIPSE, **more):
  return parse("mask", points, **{"mask": text(image)} | more)


def drawn(kind, points, **more):
  return labelme.shape_mask(parse(kind, points, **more), HEIGHT, WIDTH)


def by_pillow(draw):
  """What labelme's own rasteriser makes of it."""
  image = Image.new("L", (WIDTH, HEIGHT))
  draw(ImageDraw.Draw(image))
  return np.asarray(image)


@pytest.mark.parametrize(
  "points",
  [[[5, 5], [50, 31]], [[-30.5, -8.2], [20.5, 90]], [[3, 3], [40, 3], [9, 44]]],
)
def test_line_is_ten_pixels_wide(points):
  kind = "line" if len(points) == 2 else "linestrip"
  flat = [tuple(point) for point in points]
  expected = by_pillow(lambda pen: pen.line(flat, fill=1, width=10))
  np.testing.assert_array_equal(drawn(kind, points), expected)


def test_level_line_covers_ten_rows():
  assert drawn("line", [[10, 20], [50, 20]]).sum(0)[30] == 10


@pytest.mark.parametrize("point", [[30.4, 20.6], [1, 47], [0, 0]])
def test_point_is_a_disc_of_radius_five(point):
  x, y = point
  box = [x - 5, y - 5, x + 5, y + 5]
  expected = by_pillow(lambda pen: pen.ellipse(box, fill=1, outline=1))
  np.testing.assert_array_equal(drawn("point", [point]), expected)


def test_oriented_rectangle_is_its_four_corners():
  corners = [[20, 5], [40, 15], [30, 35], [10, 25]]
  expected = mask_ops.rasterise_polygons([corners], HEIGHT, WIDTH)
  np.testing.assert_array_equal(drawn("oriented_rectangle", corners), expected)


@pytest.mark.parametrize("corner", [(7, 5), (0, 0), (51, 39)])
def test_mask_is_laid_on_its_box_both_corners_inside(corner):
  x, y = corner
  found = labelme.shape_mask(mask_shape([[x, y], [x + 12, y + 8]]), HEIGHT, WIDTH)
  expected = np.zeros((HEIGHT, WIDTH), np.uint8)
  expected[y : y + 9, x : x + 13] = ELLIPSE
  np.testing.assert_array_equal(found, expected)


def test_size_of_the_png_counts_where_corners_are_fractions():
  found = labelme.shape_mask(mask_shape([[7.8, 5.3], [18.2, 12.9]]), HEIGHT, WIDTH)
  np.testing.assert_array_equal(found[5:14, 7:20], ELLIPSE)
  assert found.sum() == ELLIPSE.sum()


def test_mask_that_sticks_out_is_cut_off():
  found = labelme.shape_mask(mask_shape([[-6, -4], [6, 4]]), HEIGHT, WIDTH)
  np.testing.assert_array_equal(found[:5, :7], ELLIPSE[4:, 6:])
  assert found.sum() == ELLIPSE[4:, 6:].sum()
  shape = mask_shape([[58, 44], [70, 52]])
  found = labelme.shape_mask(shape, HEIGHT, WIDTH)
  np.testing.assert_array_equal(found[44:, 58:], ELLIPSE[:4, :6])


@pytest.mark.parametrize("values", [1, 255, True])
def test_every_value_but_zero_is_the_mask(values):
  image = (ELLIPSE * values).astype(bool if values is True else np.uint8)
  shape = mask_shape([[7, 5], [19, 13]], Image.fromarray(image))
  assert labelme.shape_mask(shape, HEIGHT, WIDTH).sum() == ELLIPSE.sum()


def test_prompts_of_a_tool_are_dropped_with_a_note():
  prompts = parse("points", [[3, 3], [9, 9]])
  polygon = parse("polygon", prist_files.SQUARE)
  _, (note,) = labelme.focus_mask((prompts, polygon), "cup", HEIGHT, WIDTH)
  assert "'cup') is dropped: points are prompts" in note
  assert not labelme.shape_mask(prompts, HEIGHT, WIDTH).any()


def test_parts_of_a_thing_share_its_group():
  assert parse("polygon", prist_files.SQUARE, group_id=4).group == 4
  assert parse("polygon", prist_files.SQUARE, group_id=None).group is None


def test_shapes_of_every_kind_are_one_target(tmp_path):
  shapes = [
    prist_files.shape("cup", [[3, 3], [8, 8]], "rectangle"),
    prist_files.shape("cup", [[25, 15], [30, 15]], "line"),
    prist_files.shape("cup", [[12, 2], [24, 10]], "mask") | {"mask": text(ELLIPSE)},
  ]
  annotation = prist_files.labelme(*shapes)
  root = prist_files.write(tmp_path, [prist_files.record()], annotation=annotation)
  dataset = prist.read_dataset(root, "val")
  assert dataset.examine(0) == [[], []]
  mask = mask_ops.decode_rle(dataset[0].targets[0][1])
  assert mask[5, 5] and mask[6, 18] and mask[15, 27] and not mask[20, 3]


@pytest.mark.parametrize(
  "kind, points, more, reason",
  [
    ("mask", [[1, 1], [13, 9]], {}, "has no text 'mask'"),
    ("mask", [[1, 1], [13, 9]], {"mask": "?!"}, "not base64"),
    ("mask", [[1, 1], [13, 9]], {"mask": "aGVsbG8="}, "no PNG"),
    ("mask", [[1, 1], [40, 9]], {"mask": text(ELLIPSE)}, "13x9 pixels, its box 40x9"),
    ("mask", [[1, 1]], {"mask": text(ELLIPSE)}, "a mask has 2 points, not 1"),
    ("line", [[1, 1]], {}, "a line has 2 points, not 1"),
    ("point", [[1, 1], [2, 2]], {}, "a point has 1 point, not 2"),
    ("oriented_rectangle", [[1, 1]], {}, "an oriented rectangle has 4 points, not 1"),
    ("cube", [[1, 1]], {}, "'cube' is not one of polygon, rectangle, oriented_rect"),
  ],
)
def test_shape_that_cannot_be_drawn_is_named(kind, points, more, reason):
  with pytest.raises(ValueError, match=r"shape 0 \('cup'\): .*" + reason):
    drawn(kind, points, **more)


def test_damaged_mask_is_named():
  data = base64.b64encode(prist_files.encode(ELLIPSE)[:-30]).decode()
  with pytest.raises(ValueError, match="its mask: damaged or truncated PNG"):
    drawn("mask", [[1, 1], [13, 9]], mask=data)


def test_coloured_mask_is_named():
  colours = prist_files.photo(9, 13)
  with pytest.raises(ValueError, match="mode RGB, want one channel"):
    drawn("mask", [[1, 1], [13, 9]], mask=text(colours))


def test_mask_of_two_sizes_is_never_drawn():
  data = base64.b64encode(png_of_two_sizes()).decode()
  with pytest.raises(ValueError, match="two sizes"):
    drawn("mask", [[1, 1], [4, 4]], mask=data)


def test_masks_that_take_minutes_are_refused_unread():
  shapes = [mask_shape([[1, 1], [13, 9]])] * 60_000
  with pytest.raises(ValueError, match="too long to draw"):
    labelme.focus_mask(shapes, "cup", HEIGHT, WIDTH)


def test_lines_that_take_minutes_are_refused():
  zigzag = np.random.default_rng(0).uniform(0, 4000, (100_000, 2)).tolist()
  with pytest.raises(ValueError, match="too long to draw"):
    labelme.shape_mask(parse("linestrip", zigzag), 4000, 4000)


@pytest.mark.parametrize("kind", labelme_shapes.KINDS)
def test_no_shape_takes_more_work_than_its_quick_count_says(kind):
  rng = np.random.default_rng(0)
  counts = {"circle": 2, "line": 2, "rectangle": 2, "mask": 2, "point": 1, "points": 3}
  counts |= {"oriented_rectangle": 4}
  for count in (counts.get(kind, n) for n in (3, 30, 300)):
    for points in (rng.uniform(1, 9, (count, 2)), rng.uniform(-900, 900, (count, 2))):
      shape = parse(kind, points.tolist(), mask=text(ELLIPSE))
      if shape.defect or shape.degenerate:
        continue
      work = labelme_shapes.work(shape, HEIGHT, WIDTH)
      assert work <= labelme_shapes.most_work(shape, HEIGHT, WIDTH)


def test_many_simple_outlines_that_only_look_costly_are_drawn():
  """Their quick count is past the limit."""
  circle = [
    [1000 + 900 * np.cos(a), 1000 + 900 * np.sin(a)] for a in np.arange(0, 6, 1e-3)
  ]
  shapes = [parse("polygon", circle)] * 2
  most = sum(labelme_shapes.most_work(shape, 2000, 2000) for shape in shapes)
  assert most > mask_ops.MAX_WORK
  mask_HW, notes = labelme.focus_mask(shapes, "cup", 2000, 2000)
  assert mask_HW[1000, 1000] and not notes
