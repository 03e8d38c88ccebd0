"""The rating page: blind, closed to the outside, and read back."""

import csv
import dataclasses
import json
import pathlib
import re

import pytest

from miras_jax.errors import UserError
from miras_jax.judge import conversations, human, rubric
from miras_jax.judge.command import main
from tests.judge import predictions

CHROMIUM = pathlib.Path("/usr/bin/chromium")
RUBRIC = rubric.read()
CRITERIA = RUBRIC.criteria
NAME = '<b>Ann</b>, "Jr"'


@pytest.fixture
def made(tmp_path):
  """Options of two systems, whose page is written into tmp_path/page."""
  lines = [predictions.line(i) for i in range(4)]
  lines[0]["turns"][0]["answer"] = "<script>document.title = 'evil'</script>"
  path = predictions.write(tmp_path / "secret_model.jsonl", lines)
  options = [f"--predictions={path}", "--against=gold"]
  photos = predictions.photographs(tmp_path / "photos")
  main(["page", *options, f"--images-dir={photos}", f"--out={tmp_path / 'page'}"])
  return options


def key_of(tmp_path):
  return json.loads((tmp_path / "page/page_key.json").read_text())["items"]


def systems_of(options):
  one = conversations.read(options[0].split("=")[1])
  return [one, conversations.gold_of(one)]


def test_page_says_nothing_of_what_it_shows(made, tmp_path):
  text = (tmp_path / "page/page.html").read_text()
  for secret in ("secret_model", "gold", "c0", "0.png", str(tmp_path)):
    assert not re.search(rf"\b{re.escape(secret)}\b", re.sub('base64,[^"]*', "", text))
  assert text.count("<img") == 8 + 2 * 4


def test_page_loads_nothing_and_runs_one_script(made, tmp_path):
  text = (tmp_path / "page/page.html").read_text()
  assert "default-src 'none'" in text
  assert text.count("<script") == 1
  assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_key_gives_both_orders(made, tmp_path):
  pairs = [item for item in key_of(tmp_path) if len(item["systems"]) == 2]
  assert len(pairs) == 4
  assert {item["systems"][0]["gold"] for item in pairs} == {False, True}


def rate(tmp_path, choose):
  """Writes the CSV of a rater who answers `choose(item)` for each item."""
  with open(tmp_path / "page/ratings.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["rater", "item", "question", "value"])
    for item in key_of(tmp_path):
      pair = len(item["systems"]) == 2
      for question in ["winner"] if pair else CRITERIA:
        writer.writerow(["Ann", item["item"], question, choose(item)])


def likes_gold(item):
  gold = [system["gold"] for system in item["systems"]]
  if len(gold) == 1:
    return 5 if gold[0] else 2
  return "first" if gold[0] else "second"


def test_csv_is_read_back_by_its_key(made, tmp_path):
  rate(tmp_path, likes_gold)
  options = [*made, f"--human={tmp_path / 'page/ratings.csv'}", "--model=rules"]
  main([*options, f"--out={tmp_path / 'out'}"])
  ann = json.loads((tmp_path / "out/judge.json").read_text())["humans"]["Ann"]
  assert ann["scores"]["gold"]["mean"]["value"] == 5
  assert ann["scores"][made[0].split("=")[1]]["mean"]["value"] == 2
  (rate_,) = ann["pairs"]["win_rates"]
  assert (rate_["second"], rate_["value"], rate_["losses"]) == ("gold", 0.0, 4)


def test_predictions_may_have_moved(made, tmp_path):
  rate(tmp_path, likes_gold)
  moved = (tmp_path / "secret_model.jsonl").rename(tmp_path / "moved.jsonl")
  systems = systems_of([f"--predictions={moved}"])
  found = human.read(tmp_path / "page/ratings.csv", None, systems, RUBRIC)
  assert {name for r in found for name in r.systems} == {str(moved), "gold"}


def test_key_of_other_predictions_is_refused(made, tmp_path):
  rate(tmp_path, likes_gold)
  other = predictions.write(tmp_path / "o.jsonl", [predictions.line(0)])
  systems = systems_of([f"--predictions={other}"])
  with pytest.raises(UserError, match="is of other predictions than --predictions"):
    human.read(tmp_path / "page/ratings.csv", None, systems, RUBRIC)


def change(tmp_path, **fields):
  """Changes the first item of the key."""
  path = tmp_path / "page/page_key.json"
  key = json.loads(path.read_text())
  key["items"][0] |= fields
  path.write_text(json.dumps(key))


@pytest.mark.parametrize("fields", [{"id": ["c0"]}, {"id": None}, {"item": "twice"}])
def test_key_that_no_page_has_is_one_line(made, tmp_path, fields):
  rate(tmp_path, likes_gold)
  if fields.get("item"):
    fields = {"item": key_of(tmp_path)[1]["item"]}
  change(tmp_path, **fields)
  with pytest.raises(UserError, match="page_key.json: is no key of a rating page"):
    human.read(tmp_path / "page/ratings.csv", None, systems_of(made), RUBRIC)


def test_ratings_by_another_rubric_are_refused(made, tmp_path):
  rate(tmp_path, likes_gold)
  other = dataclasses.replace(RUBRIC, version=RUBRIC.version + 1)
  with pytest.raises(UserError, match="its page asked by the rubric"):
    human.read(tmp_path / "page/ratings.csv", None, systems_of(made), other)


def test_key_of_a_page_that_may_be_with_its_raters_is_not_overwritten(made, tmp_path):
  before = key_of(tmp_path)
  again = ["page", *made, f"--out={tmp_path / 'page'}"]
  assert main(again) == 0 and key_of(tmp_path) == before
  with pytest.raises(UserError, match="is the key of another page"):
    main([*again, "--seed=1"])
  assert key_of(tmp_path) == before


def test_items_of_two_pages_are_not_mixed_up(made, tmp_path):
  main(["page", *made, f"--out={tmp_path / 'other'}", "--seed=1"])
  other = json.loads((tmp_path / "other/page_key.json").read_text())["items"]
  here = {item["item"] for item in key_of(tmp_path)}
  assert here and not here & {item["item"] for item in other}


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}")
def test_page_is_filled_in_by_a_browser(made, tmp_path):
  playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
  with playwright.sync_playwright() as running:
    browser = running.chromium.launch(executable_path=str(CHROMIUM))
    page = browser.new_context(accept_downloads=True).new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{tmp_path}/page/page.html")
    page.click("text=Download")
    assert page.inner_text("#state") == "Write your name first."
    page.fill("#rater", NAME)
    for item in key_of(tmp_path):
      value = "tie" if len(item["systems"]) == 2 else "3"
      for radio in page.query_selector_all(f"#{item['item']} [value='{value}']"):
        radio.check()
    page.reload()  # what was rated is still there
    assert page.inner_text("#state") == "36 of 36 answered"
    with page.expect_download() as download:
      page.click("text=Download")
    download.value.save_as(tmp_path / "page/ratings.csv")
    assert page.title() == "Rating"
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    browser.close()
  systems = systems_of(made)
  found = human.read(tmp_path / "page/ratings.csv", None, systems, RUBRIC)
  assert {r.rater for r in found} == {f"human:{NAME}"}
  assert len(found) == 36
