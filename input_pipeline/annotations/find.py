"""Which form the files of a folder have, by looking."""

from input_pipeline.annotations import layout
from input_pipeline.annotations.coco_form import Coco
from input_pipeline.annotations.index_png import IndexPng
from input_pipeline.annotations.label_studio import LabelStudio
from input_pipeline.annotations.labelme_form import Labelme
from input_pipeline.annotations.one_hot_png import OneHotPng
from input_pipeline.annotations.photo import Form
from input_pipeline.annotations.prist_form import Prist
from input_pipeline.annotations.yolo_seg import YoloSeg
from input_pipeline.builders.folder import SourceFolder
from miras_jax.errors import UserError

# name: (class, what is looked for). A new form is a module and a row.
FORMS = {
  "prist": (Prist, "PRIST's lists of dialogues, train.json ..., masks/*.json"),
  "labelme": (Labelme, "labelme JSON beside the photographs or in a folder"),
  "coco": (Coco, "COCO JSON with images, annotations, categories"),
  "label_studio": (LabelStudio, "a Label Studio export (JSON, not JSON-MIN or CSV)"),
  "yolo_seg": (YoloSeg, "YOLO-seg labels/*.txt with data.yaml or classes.txt"),
  "index_png": (IndexPng, "masks/*.png of class numbers with a list of names"),
  "one_hot_png": (OneHotPng, "masks/<photograph>_<name>.png, 0 or 255"),
}
_NAMELESS = ("prist", "coco")  # their files name everything
HIDES = {"prist": ("labelme",)}  # the second are part of the first


def make_form(name: str, names: dict[int, str] | None = None) -> Form:
  """The form of a name, with the names of its classes where the user lists them."""
  if name not in FORMS:
    raise UserError(f"--form={name}: is none of {', '.join(FORMS)}")
  cls = FORMS[name][0]
  return cls() if name in _NAMELESS else cls(names)


def find_form(src: SourceFolder, names: dict[int, str] | None = None) -> Form:
  """The one form that the files of `src` have. Raises UserError for none, several."""
  forms = {name: make_form(name, names) for name in FORMS}
  found = {name: said for name, form in forms.items() if (said := form.found(src))}
  hidden = {other for name in found for other in HIDES.get(name, ())}
  found = {name: said for name, said in found.items() if name not in hidden}
  if len(found) == 1:
    return forms[next(iter(found))]
  if found:
    listed = "; ".join(f"{name}: {said}" for name, said in found.items())
    raise UserError(
      f"--src={src.root}: holds labels of several forms ({listed}); choose one with"
      f" --form={next(iter(found))}"
    )
  listed = "\n".join(f"  {name:12} {text}" for name, (_, text) in FORMS.items())
  raise UserError(
    f"--src={src.root}: holds {len(layout.photographs(src)):,} photographs and no"
    " labels of a known form; --form=NAME says which of these it is",
    details=listed,
  )
