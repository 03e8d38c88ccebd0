"""The pages that people read, in a browser: legible on a phone and on a laptop, in the
dark and in the light."""

import pathlib

import pytest

from miras_jax.compare import command as compare_command
from miras_jax.data import command as data_command
from miras_jax.experiment import runs
from miras_jax.judge import command as judge_command
from tests.compare import written
from tests.compare.written import EMPTY, HALF, SQUARE
from tests.evaluation.report import cases
from tests.experiment import test_command as experiments
from tests.judge import predictions as judged

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = pathlib.Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}")
LEAST_CONTRAST, LEAST_LETTER = 3.0, 10.0  # WCAG for large text; pixels on the screen

BOX = cases.box(0, 8)

# Every text that is shown: its letters' size in pixels of the screen, and the contrast
# of its colour with the nearest ground that is not transparent.
LOOK = """() => {
  const rgb = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((x) => x / 255)
    .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const lines = (e) => {
    const range = document.createRange();
    range.selectNodeContents(e);
    return new Set([...range.getClientRects()].map((box) => box.top)).size;
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const box = e.getBoundingClientRect();
    const drawn = e.closest(".picture, .hidden, script, style");
    if (!own || drawn || !box.width || !e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const svg = e.ownerSVGElement;
    const [a, b] = [rgb(svg ? style.fill : style.color), ground(e)].map(light);
    const scale = svg ? svg.getScreenCTM().a : 1;
    found.push({
      text: e.textContent.trim().slice(0, 40),
      contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
      size: parseFloat(style.fontSize) * scale,
      broken: /^[+-]?[0-9.,]+$/.test(e.innerHTML.trim()) && !svg && lines(e) > 1,
    });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
  with playwright.sync_playwright() as running:
    yield running.chromium.launch(executable_path=str(CHROMIUM))


def look(browser, path, width, scheme):
  """(every text that is shown, how far the page is wider than the screen)."""
  page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
  page.goto(f"file://{path}")
  found = page.evaluate(LOOK)
  over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
  page.close()
  return found, over


def faults(browser, path):
  """What cannot be read, at any width and colour scheme, in words."""
  out = []
  for width in (400, 1280):
    for scheme in ("light", "dark"):
      found, over = look(browser, path, width, scheme)
      assert len(found) > 5
      where = f"at {width} pixels, {scheme}"
      out += [f"{where}: the page is {over} pixels too wide"] if over > 0 else []
      for text in found:
        if text["contrast"] < LEAST_CONTRAST:
          out.append(f"{where}: contrast {text['contrast']:.1f} of {text['text']!r}")
        if text["size"] < LEAST_LETTER:
          out.append(f"{where}: letters of {text['size']:.1f} in {text['text']!r}")
        if text["broken"]:
          out.append(f"{where}: the number {text['text']!r} is broken")
  return out


def compared(tmp_path):
  """A comparison in which some metrics are significant and some are not."""
  runs = {"a": [HALF] * 60, "b": [SQUARE if i % 3 else EMPTY for i in range(60)]}
  for name, masks in runs.items():
    written.write(tmp_path / name, [written.line(i, m) for i, m in enumerate(masks)])
  places = [str(tmp_path / name) for name in runs]
  options = ["--power", "--resamples=500", f"--out={tmp_path / 'out'}"]
  compare_command.main([*places, *options])
  return tmp_path / "out" / "index.html"


def experimented(tmp_path, monkeypatch, name):
  """An experiment whose training and evaluation are fakes."""
  experiments.fake(monkeypatch, lambda out: 0.4 if "seed1" in out else 0.9)
  data = runs.make_data(tmp_path / "rendered", 60)
  experiments.experiment(tmp_path, name, data, "--seeds=2", "--steps=6")
  return tmp_path / "out" / name / "index.html"


def evaluated(tmp_path):
  """A report with every part."""
  right, wrong = cases.target(BOX, BOX), cases.target(cases.box(20, 30), BOX)
  lines = [cases.line(i, wrong if i % 3 else right) for i in range(9)]
  turns = {"2": {key: cases.metric(0.5) for key in ("gold", "own", "gap")}}
  cases.write(tmp_path, lines, history_gap=turns)
  return tmp_path / "index.html"


def rated(tmp_path):
  path = judged.write(tmp_path / "p.jsonl", [judged.line(i) for i in range(4)])
  photos = judged.photographs(tmp_path / "photos")
  out = tmp_path / "page"
  options = [f"--predictions={path}", "--against=gold", f"--images-dir={photos}"]
  judge_command.main(["page", *options, f"--out={out}"])
  return out / "page.html"


def audited(tmp_path):
  """An audit that found something."""
  runs.make_data(tmp_path, 60)
  data = next(tmp_path.glob("*/val.json")).parent
  data_command.main(["audit", str(data), f"--out={tmp_path / 'audit'}"])
  return tmp_path / "audit" / "audit.html"


@pytest.mark.parametrize("make", [compared, evaluated, rated, audited])
def test_every_page_can_be_read_at_400_pixels_and_in_the_dark(make, tmp_path, browser):
  assert faults(browser, make(tmp_path)) == []


@pytest.mark.parametrize("name", ["losses", "complexity"])
def test_the_page_of_an_experiment_can_be_read(name, tmp_path, monkeypatch, browser):
  assert faults(browser, experimented(tmp_path, monkeypatch, name)) == []
