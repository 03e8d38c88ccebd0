"""The rating page as one text: escaped, no outside asset, one script known by its hash.

It names neither systems nor conversations nor files.
"""

import base64
import hashlib
import importlib.resources

from miras_jax import drawing
from miras_jax.judge.ratings import WINNER
from miras_jax.judge.rubric import FIRST, LEVELS, SECOND, TIE, Rubric
from miras_jax.judge.tasks import PAIR, Task
from miras_jax.page_text import escaped as _text

_WORDS = {FIRST: "1 is better", TIE: "no clear difference", SECOND: "2 is better"}


def render(items: list[tuple[str, Task]], rubric: Rubric, pictures=None) -> str:
  """The page. items: (code, task) in order; pictures: `Pictures`, or None."""
  script, css = _file("page.js"), _file("page.css")
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
    f" script-src 'sha256-{digest}'"
  )
  sections = "".join(
    _section(place, len(items), code, task, rubric, pictures)
    for place, (code, task) in enumerate(items, 1)
  )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>Rating</title><style>{css}</style></head><body><main>"
    f"<h1>Rating of conversations</h1>{_intro(rubric)}"
    f'<form id="form" data-page="{_page_id(items)}">{sections}</form>'
    '<div class="bar"><label>Your name <input id="rater" maxlength="100"></label>'
    '<span id="state" role="status"></span>'
    '<button id="save" type="button">Download ratings.csv</button></div>'
    f"</main><script>{script}</script></body></html>\n"
  )


def _page_id(items):
  """Tells pages apart in a browser's storage; says nothing of what they show."""
  text = "\n".join(f"{code} {task.id} {task.systems}" for code, task in items)
  return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _file(name):
  folder = importlib.resources.files("miras_jax.judge")
  return folder.joinpath(name).read_text(encoding="utf-8")


def _intro(rubric):
  rows = "".join(
    f"<dt>{_text(_title(name))}: {_text(question)}</dt>"
    + "".join(f"<dd>{level}: {_text(levels[level])}</dd>" for level in LEVELS)
    for name, (question, levels) in rubric.criteria.items()
  )
  return (
    '<p class="note">In each conversation a user narrows down what is meant, and an'
    " assistant answers and marks it ([SEG]); the colour in the picture is its mask."
    "</p><details open><summary>What the numbers mean</summary>"
    f"<dl>{rows}</dl></details>"
  )


def _section(place, count, code, task, rubric, pictures):
  asked = _pair(code) if task.kind == PAIR else _scores(code, rubric)
  return (
    f'<section class="item" id="{code}"><header>{place} of {count}</header>'
    f'<div class="panels">{_figures(task, pictures)}</div>{_chat(task)}{asked}'
    "</section>"
  )


def _chat(task):
  wanted = ", ".join(name for name in task.shown[0].names if name)
  lines = f'<p class="note">Wanted in the end: {_text(wanted)}</p>' if wanted else ""
  for i, turn in enumerate(task.shown[0].turns):
    lines += f'<p class="user" dir="auto">{_text(turn.user)}</p>'
    for number, conversation in enumerate(task.shown, 1):
      label = f"<b>{number}</b> " if task.kind == PAIR else ""
      answer = _text(conversation.turns[i].answer)
      lines += f'<p class="model" dir="auto">{label}{answer}</p>'
  return f'<div class="chat">{lines}</div>'


def _figures(task, pictures):
  if pictures is None:
    return ""
  figures = ""
  for number, conversation in enumerate(task.shown, 1):
    data = drawing.encode(pictures.draw(conversation), "JPEG")
    source = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
    caption = f"<figcaption>{number}</figcaption>" if task.kind == PAIR else ""
    alt = f"picture {number}"
    figures += f'<figure><img src="{source}" alt="{alt}">{caption}</figure>'
  return figures


def _scores(code, rubric):
  return "".join(
    _choice(code, name, _title(name), {str(level): str(level) for level in LEVELS})
    for name in rubric.criteria
  )


def _pair(code):
  return _choice(code, WINNER, "Which answers are better?", _WORDS)


def _choice(code, question, title, values):
  """A group of radio buttons {value: what it is called}."""
  buttons = "".join(
    f'<label><input type="radio" name="{code}/{question}" value="{value}">'
    f" {_text(word)}</label>"
    for value, word in values.items()
  )
  return f"<fieldset><legend>{_text(title)}</legend>{buttons}</fieldset>"


def _title(name):
  return name.replace("_", " ")
