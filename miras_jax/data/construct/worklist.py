"""What annotators get where there are no masks: labelme files and a page.

Each file names its focuses as labels of shapes that cover nothing, so that labelme
offers the label and `miras data check` reports the focus until a shape is drawn.
"""

import os
import urllib.parse

from input_pipeline.prist_folders import annotation_name
from miras_jax.page_text import escaped as _text

PAGE, LABELS = "worklist.html", "labels.txt"
_POLICY = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'"
_CSS = (
  "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:auto;padding:1rem}"
  "section{border-top:1px solid #999;padding:1rem 0;display:flex;gap:1rem;"
  "flex-wrap:wrap}img{max-width:24rem;max-height:24rem}.user{font-weight:600}"
)
_HOW = """Open the folder in labelme (`labelme images --output masks --labels labels.txt
--nodata`). For each focus below draw its outline under exactly that label; an object
cut in two has several shapes. Then run `miras data check` on this folder: it names what
is left to draw."""


def document(photo, shapes) -> dict:
  """A labelme file of a photograph in images/ for masks/."""
  folder = os.path.dirname(os.path.join("masks", annotation_name(photo.name)))
  path = os.path.relpath(os.path.join("images", photo.name), folder)
  return {
    "version": "5.5.0",
    "flags": {},
    "shapes": shapes,
    "imagePath": path.replace(os.sep, "/"),
    "imageData": None,
    "imageHeight": photo.height,
    "imageWidth": photo.width,
  }


def file(photo) -> dict:
  """The labelme file of a photograph that has no masks yet."""
  focuses = dict.fromkeys(draft.focus for draft in photo.drafts)
  middle = [photo.width // 2, photo.height // 2]
  shapes = [
    {
      "label": focus,
      "points": [middle],
      "group_id": None,
      "shape_type": "points",
      "flags": {},
    }
    for focus in focuses
  ]
  return document(photo, shapes)


def write_page(out, lists, write) -> None:
  """The page and the list of labels."""
  records = [record for records in lists.values() for record in records]
  labels = sorted({record["focus"] for record in records})
  write(out / LABELS, "".join(f"{label}\n" for label in labels))
  sections = "".join(map(_section, records))
  write(
    out / PAGE,
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    f"<title>Worklist</title><style>{_CSS}</style></head><body><h1>Worklist</h1>"
    f"<p>{_text(_HOW)}</p>{sections}</body></html>\n",
  )


def _section(record):
  image = "images/" + urllib.parse.quote(record["img_id"].replace("\\", "/"))
  turns = "".join(
    f'<p class="{"user" if turn["from"] == "human" else "model"}">'
    f"{_text(turn['value'])}</p>"
    for turn in record["dialogue"]
  )
  return (
    f'<section><img src="{_text(image)}" alt="" loading="lazy"><div>'
    f"<h2>{_text(record['focus'])}</h2><p>{_text(record['img_id'])}</p>{turns}</div>"
    "</section>"
  )
