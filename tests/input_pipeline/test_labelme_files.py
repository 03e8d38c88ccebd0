"""labelme files and lists as other tools and systems write them."""

import json
import tracemalloc

import pytest

from input_pipeline import image_ops, labelme, mask_ops, prist, safe_files
from tests import prist_files


def examine(root):
  problems, notes = prist.read_dataset(root, "val").examine(0)
  return [str(p) for p in problems], [str(n) for n in notes]


def write_encoded(tmp_path, label, focus, encoding, **more):
  """A data set whose labelme file is in another encoding than its list."""
  annotation = prist_files.labelme(prist_files.shape(label)) | more
  root = prist_files.write(tmp_path, [prist_files.record(focus=focus)])
  content = json.dumps(annotation, ensure_ascii=False).encode(encoding)
  (root / "masks" / "a.json").write_bytes(content)
  return root


@pytest.mark.parametrize(
  "label, encoding", [("カップ", "shift_jis"), ("кружка", "cp1251"), ("컵", "euc_kr")]
)
def test_label_of_another_code_page_is_not_blamed_on_the_focus(
  tmp_path, label, encoding
):
  (problem,), _ = examine(write_encoded(tmp_path, label, label, encoding))
  assert problem.startswith("val.json:0: masks/a.json: ")
  assert "not UTF-8" in problem and "save it as UTF-8" in problem


def test_label_read_by_a_guess_is_a_warning(tmp_path):
  root = write_encoded(tmp_path, "cup кружка", "cup", "cp1251")
  problems, (note,) = examine(root)
  assert problems == []
  assert "not UTF-8 and was read as cp1252" in note


def test_code_page_that_fits_the_focus_is_no_matter(tmp_path):
  assert examine(write_encoded(tmp_path, "Tasse à café", "tasse à CAFÉ", "cp1252")) == (
    [],
    [],
  )


def test_code_page_of_other_texts_than_labels_is_no_matter(tmp_path):
  root = write_encoded(tmp_path, "cup", "cup", "cp1252", imagePath="café.png")
  assert examine(root) == ([], [])


def with_photograph(path, megabytes, text=b"/9j+"):
  """A labelme file with that much `imageData`, before its shapes and after them."""
  head, tail = json.dumps(
    prist_files.labelme(prist_files.shape("cup")) | {"imageData": "HERE"}
  ).split("HERE")
  with open(path, "wb") as file:
    file.write(head.encode())
    for _ in range(megabytes):
      file.write(text * (2**20 // len(text)))
    file.write(tail.encode())


@pytest.mark.parametrize("text", [b"/9j+", b"\\/9j"], ids=["plain", "escaped"])
def test_photograph_in_the_annotation_is_passed_over(tmp_path, text):
  root = prist_files.write(tmp_path, [prist_files.record()])
  with_photograph(root / "masks" / "a.json", 40, text)
  tracemalloc.start()
  assert examine(root) == ([], [])
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 20 * 2**20


def test_much_beside_the_photograph_is_refused(tmp_path):
  root = prist_files.write(tmp_path, [prist_files.record()])
  with open(root / "masks" / "a.json", "ab") as file:
    file.write(b" " * (safe_files.MAX_MASK_BYTES + 2**20))
  (problem,), _ = examine(root)
  assert "more than 33,554,432 bytes beside 'imageData'" in problem


@pytest.mark.parametrize("block", [1, 7, 64, 300, 1 << 20])
def test_text_is_passed_over_wherever_blocks_end(tmp_path, monkeypatch, block):
  before = {"label": 'say "imageData": "', "a": "\\"}
  text = json.dumps(before | {"imageData": 'x"\\y' * 9, "b": [1], "c": "imageData"})
  path = tmp_path / "a.json"
  path.write_text(text.replace('"imageData": "x', '"imageData"  :\n"x'))
  monkeypatch.setattr(safe_files, "_BLOCK", block)
  data = safe_files.read_without_text(path, "imageData", 1000)
  assert json.loads(data) == before | {"imageData": "", "b": [1], "c": "imageData"}


def test_text_without_end_is_no_json(tmp_path):
  root = prist_files.write(tmp_path, [prist_files.record()])
  (root / "masks" / "a.json").write_bytes(b'{"imageData": "' + b"\\" * 99)
  (problem,), _ = examine(root)
  assert "is not valid JSON" in problem


def windows_set(tmp_path, img_id="day\\cup.v2\\a.png"):
  root = prist_files.write(tmp_path, [prist_files.record(img_id)])
  for folder, name in (("images", "a.png"), ("masks", "a.json")):
    (root / folder / "day" / "cup.v2").mkdir(parents=True)
    (root / folder / name).rename(root / folder / "day" / "cup.v2" / name)
  return root


def test_backslash_of_a_list_made_on_windows_separates(tmp_path):
  root = windows_set(tmp_path)
  assert examine(root) == ([], [])
  assert prist.read_dataset(root, "val")[0].image_id == "day/cup.v2/a.png"


def test_one_photograph_has_one_name_however_it_is_written(tmp_path):
  root = windows_set(tmp_path)
  records = [prist_files.record(f"day{s}cup.v2{s}a.png") for s in "\\/"]
  (root / "val.json").write_text(json.dumps(records))
  assert set(prist.read_dataset(root, "val").image_ids) == {"day/cup.v2/a.png"}


def test_file_that_has_a_backslash_in_its_name_is_found(tmp_path):
  root = prist_files.write(tmp_path, [prist_files.record("day\\a.png")])
  for folder, name in (("images", "a.png"), ("masks", "a.json")):
    (root / folder / name).rename(root / folder / f"day\\{name}")
  assert examine(root) == ([], [])


@pytest.mark.parametrize("img_id", ["..\\a.png", "day\\..\\..\\a.png", "\\a.png"])
def test_backslash_leads_out_of_no_folder(tmp_path, img_id):
  root = prist_files.write(tmp_path, [prist_files.record(img_id)])
  (problem,), _ = examine(root)
  assert "leaves its folder" in problem or "absolute path" in problem


def test_path_of_the_photograph_is_that_of_any_system():
  document = prist_files.labelme() | {"imagePath": "..\\day\\a.png"}
  assert labelme.parse_annotation(document).image_path == "../day/a.png"
  assert labelme.parse_annotation(prist_files.labelme()).image_path == ""


FRACTIONS = [[0.1, 0.2], [0.7, 0.2], [0.7, 0.9]]


@pytest.mark.parametrize("kind", ["polygon", "rectangle", "linestrip"])
def test_fractions_where_pixels_are_expected_are_a_defect(tmp_path, kind):
  points = FRACTIONS[:2] if kind == "rectangle" else FRACTIONS
  points = [[x, y + 0.01 * k] for k, (x, y) in enumerate(points)]
  annotation = prist_files.labelme(prist_files.shape("cup", points, kind))
  root = prist_files.write(tmp_path, [prist_files.record()], annotation=annotation)
  (problem,), _ = examine(root)
  assert "shape 0 ('cup'): all its coordinates lie between 0 and 1" in problem
  assert "normalised" in problem and "32x24" in problem


def test_stray_click_beside_a_good_shape_is_a_warning(tmp_path):
  shapes = [prist_files.shape("cup"), prist_files.shape("cup", FRACTIONS)]
  annotation = prist_files.labelme(*shapes)
  root = prist_files.write(tmp_path, [prist_files.record()], annotation=annotation)
  problems, (note,) = examine(root)
  assert problems == []
  assert "shape 1 ('cup'): all its coordinates lie between 0 and 1" in note


def test_tiny_picture_may_have_shapes_of_a_pixel(tmp_path):
  annotation = prist_files.labelme(
    prist_files.shape("cup", [[0, 0], [1, 0], [1, 1]]), height=2, width=3
  )
  image = prist_files.encode(prist_files.photo(2, 3))
  root = prist_files.write(
    tmp_path, [prist_files.record()], annotation=annotation, image=image
  )
  assert examine(root) == ([], [])


def test_masks_are_as_large_as_pictures():
  assert mask_ops.MAX_MASK_PIXELS == image_ops.MAX_PIXELS
