"""`miras data construct` against an endpoint that writes by rules, or misbehaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from input_pipeline import prist
from input_pipeline.mask_ops import decode_rle
from miras_jax.data import command as data
from miras_jax.data.construct import checks
from miras_jax.errors import UserError
from tests.data.construct import pictures, server
from tests.llm.endpoint import Do, serve

PRIVATE = ("replies.sqlite", ".lock")  # beside the data set
KEY = "sk-secret-of-the-test"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  return pictures.make(tmp_path_factory.mktemp("photos") / "p", 5)


def construct(photos, out, url, *more, model="m", masks=True):
  labels = [f"--masks={photos / 'masks'}"] if masks else []
  return data.main(
    ["construct", f"--images={photos / 'images'}", *labels, f"--out={out}"]
    + [f"--endpoint={url}", f"--model={model}", "--splits=train:0.6,val:0.4"]
    + ["--backoff=0.001", "--attempts=2", *more]
  )


def by_rules(photos, out, *more):
  return construct(photos, out, "http://127.0.0.1:9/v1", *more, model="rules")


def files(out):
  """{name: bytes} of the data set."""
  return {
    str(path.relative_to(out)): path.read_bytes()
    for path in sorted(out.rglob("*"))
    if path.is_file() and path.name not in PRIVATE
  }


def meta(out):
  return json.loads((out / "meta.json").read_text())


@pytest.fixture(scope="module")
def served(photos, tmp_path_factory):
  """(folder, requests) of a run over HTTP."""
  out = tmp_path_factory.mktemp("served")
  with serve(server.write) as (url, endpoint):
    assert construct(photos, out, url) == 0
  return out, endpoint.seen


def test_data_check_finds_nothing_wrong(served, capsys):
  assert data.main(["check", str(served[0])]) == 0
  assert "0 problems, 0 warnings" in capsys.readouterr().out


def test_each_focus_is_the_mask_of_its_annotation(photos, served):
  for split in ("train", "val"):
    for record in prist.read_dataset(served[0], split):
      name = record.image_id
      known = pictures.read_measures(photos, name)
      (focus, rle), (thing,) = record.targets[0], [
        t for t in known.things.values() if t.name == record.targets[0][0]
      ]  # fmt: skip
      np.testing.assert_array_equal(decode_rle(rle), decode_rle(thing.region.rle))
      assert focus not in " ".join(text for _, text in record.turns[:-1])


def test_trees_are_prist_x_and_both_forms_are_built(served, tmp_path, capsys):
  total = meta(served[0])["counts"]["conversations"]
  for name in ("prist", "prist_x"):
    build = ["build", name, f"--src={served[0]}", f"--out={tmp_path}"]
    assert data.main([*build, "--num_workers=0"]) == 0
    assert f"{total} conversations, 0 entries rejected" in capsys.readouterr().out


def test_what_was_answered_is_replayed_without_an_endpoint(photos, served, tmp_path):
  store = served[0] / "replies.sqlite"
  assert construct(photos, tmp_path, "", "--offline", f"--store={store}") == 0
  assert files(tmp_path) == files(served[0])


@pytest.mark.parametrize("answered", [0, 1, 4, 9])
def test_cut_by_an_endpoint_that_goes_down_and_run_again(
  photos, served, tmp_path, answered
):
  with server.down_after(answered) as (url, _):
    with pytest.raises(UserError, match="goes on from there"):
      construct(photos, tmp_path, url)
  with serve(server.write) as (url, endpoint):
    construct(photos, tmp_path, url)
  assert files(tmp_path) == files(served[0])
  assert len(endpoint.seen) <= len(served[1]) - answered


def test_killed_while_it_works_and_run_again(photos, tmp_path):
  """The same data set to the byte, wherever the process ends."""
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  by_rules(photos, whole)
  argv = ["construct", f"--images={photos / 'images'}", f"--masks={photos / 'masks'}"]
  argv += [f"--out={cut}", "--model=rules", "--splits=train:0.6,val:0.4"]
  argv += ["--endpoint=http://127.0.0.1:9/v1", "--backoff=0.001", "--attempts=2"]
  code = f"from miras_jax.data import command; command.main({argv!r})"
  process = subprocess.Popen([sys.executable, "-c", code])
  seen = cut / "images"  # what is written first
  while process.poll() is None and not seen.exists():
    time.sleep(0.001)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  by_rules(photos, cut)
  assert files(cut) == files(whole)


def test_a_broken_or_throttled_reply_is_asked_for_again_and_a_refusal_counted(
  photos, served, tmp_path
):
  """429, half a JSON, prose: asked again; a refusal: a rejection with its reason."""
  refused = []

  def script(body, n):
    if server.stage_of(body) == "tree" and not refused:
      refused.append(json.dumps(body))
    if json.dumps(body) in refused:
      return Do.refuse()
    if n == 0 and server.stage_of(body) == "elements":
      return Do.error(429, "slow down")
    if server.stage_of(body) == "dialogue" and len(body["messages"]) == 2:
      return Do.say('{"turns": [')
    return server.write(body)

  with serve(script) as (url, _):
    construct(photos, tmp_path, url, "--concurrency=1")
  rejections = meta(tmp_path)["rejections"]
  assert rejections.pop("reply_refused")["count"] == 1
  assert not [reason for reason in rejections if reason.startswith("reply")]
  assert meta(tmp_path)["counts"]["photographs_used"] == 4


def test_an_endpoint_that_is_too_slow_is_one_line(photos, tmp_path):
  with serve(lambda *_: Do.sleep(0.5)) as (url, _):
    with pytest.raises(UserError, match="no sound answer in 2 attempts"):
      construct(photos, tmp_path, url, "--timeout=0.05")


def test_a_model_that_answers_in_another_language_is_rejected(photos, tmp_path):
  def script(body, _):
    found = server.reply(body)
    for turn in found.get("turns", ()):
      turn["question"], turn["answer"] = "Was liegt dort noch?", "Noch drei Dinge."
    return Do.say(json.dumps(found))

  with serve(script) as (url, _):
    with pytest.raises(UserError, match="no conversation passed: language"):
      construct(photos, tmp_path, url)


def test_a_wrong_key_is_one_line_that_does_not_show_it(photos, tmp_path, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  with serve(lambda *_: Do.error(401, f"wrong key {KEY}")) as (url, _):
    with pytest.raises(UserError, match="401.*is the key it wants") as caught:
      construct(photos, tmp_path, url)
  assert KEY not in str(caught.value)


def blind(body, _):
  return Do.say(json.dumps({"colour": "red"}))


def no_pictures(body, _):
  return Do.error(400, "image_url is not supported by this model")


@pytest.mark.parametrize(
  ("script", "said"),
  [(blind, "does not see pictures"), (no_pictures, "does m take pictures")],
)
def test_a_model_without_vision_is_found_out_first(photos, tmp_path, script, said):
  with serve(script) as (url, endpoint):
    with pytest.raises(UserError, match=said):
      construct(photos, tmp_path, url)
  assert len(endpoint.seen) == 1


def prose(body, _):
  return Do.say("What a lovely disc!")


@pytest.mark.parametrize("script", [blind, prose])
def test_a_model_that_failed_is_asked_anew_when_another_is_served(
  photos, served, tmp_path, script
):
  with serve(script) as (url, _):
    with pytest.raises(UserError):
      construct(photos, tmp_path, url)
  with serve(server.write) as (url, _):
    construct(photos, tmp_path, url)
  assert files(tmp_path) == files(served[0])


def test_a_model_that_writes_no_json_is_told_apart_from_a_blind_one(photos, tmp_path):
  with serve(prose) as (url, _):
    with pytest.raises(UserError, match="form that was asked for.*--json=none"):
      construct(photos, tmp_path, url)


@pytest.mark.parametrize("place", ["images/made", "made"])
def test_what_lies_beside_the_photographs_is_not_read_as_one_of_them(photos, place):
  by_rules(photos, photos / place)
  first = files(photos / place)
  by_rules(photos, photos / place)
  assert files(photos / place) == first


@pytest.mark.parametrize("place", [".", "images", "masks"])
def test_what_it_is_made_from_is_not_written_over(photos, place):
  before = files(photos)
  with pytest.raises(UserError, match="name another folder"):
    by_rules(photos, photos / place)
  assert files(photos) == before


@pytest.mark.parametrize("option", ["--out=", "--masks="])
def test_an_empty_path_is_a_mistake(photos, tmp_path, option):
  with pytest.raises(UserError, match="is empty"):
    by_rules(photos, tmp_path, option)


def test_photographs_of_odd_names_and_sizes_are_made_and_found_again(tmp_path):
  photos = pictures.make(tmp_path / "p", 6)
  names = ("-dash.png", "with space.png", "ünï 図.png", "two\nlines.png")
  for number, name in enumerate(names):
    for folder in ("images", "masks"):
      (photos / folder / f"p{number:03d}.png").rename(photos / folder / name)
  for size in ((1, 1), (3, 5000), (5000, 3)):
    name = "{}x{}.png".format(*size)
    blank_HW = np.ones(size, np.uint8)
    pictures.Image.fromarray(np.stack([blank_HW] * 3, 2)).save(photos / "images" / name)
    pictures.Image.fromarray(blank_HW).save(photos / "masks" / name)
  by_rules(photos, tmp_path / "out")
  records = [
    record
    for split in ("train", "val")
    for record in prist.read_dataset(tmp_path / "out", split)
  ]
  assert set(names) <= {record.image_id for record in records}
  assert meta(tmp_path / "out")["counts"]["photographs_unusable"] == 0


def test_a_split_that_is_empty_now_leaves_no_older_list(photos, tmp_path):
  mine = tmp_path / "p"
  shutil.copytree(photos, mine, ignore=shutil.ignore_patterns("made"))
  by_rules(mine, tmp_path / "out")
  for path in sorted((mine / "masks").iterdir()):
    if path.name != "p000.png":
      pictures.Image.new("L", (pictures.SIDE, pictures.SIDE)).save(path)
  by_rules(mine, tmp_path / "out")
  lists = {path.name for path in (tmp_path / "out").glob("*.json")} - {"meta.json"}
  trees = {path.stem for path in (tmp_path / "out" / "trees").iterdir()}
  assert len(trees) == 1 and lists == {f"{split}.json" for split in trees}


def test_photographs_that_cannot_be_used_are_named_and_the_rest_is_done(
  tmp_path, capsys
):
  photos = pictures.make(tmp_path / "p", 5)
  (photos / "images" / "p000.png").write_bytes(b"no picture")
  small = photos / "masks" / "p001.png"
  pictures.Image.open(small).resize((60, 60)).save(small)
  by_rules(photos, tmp_path / "out", "--splits=train:1")
  said = capsys.readouterr().err
  assert "images/p000.png:-:" in said
  assert "masks/p001.png:-: is for an image of 60x60 pixels" in said
  assert meta(tmp_path / "out")["counts"]["photographs_unusable"] == 2


def test_the_cost_is_told_before_anything_is_asked(photos, tmp_path, capsys):
  with serve(server.write) as (url, endpoint):
    assert construct(photos, tmp_path, url, "--estimate", "--price=1,2") == 0
    with pytest.raises(UserError, match="may cost"):
      construct(photos, tmp_path, url, "--max-cost=0", "--price=1,2")
  assert not endpoint.seen
  assert "30 requests to send" in capsys.readouterr().err  # 1 + 1 + 4 a photograph


def test_other_settings_do_not_go_into_a_folder_that_was_begun(photos, served):
  with pytest.raises(UserError, match="was begun with per_image=4, not 2"):
    construct(photos, served[0], "http://127.0.0.1:9/v1", "--per-image=2")


def test_every_rejection_has_a_reason_that_is_explained(served):
  assert set(meta(served[0])["rejections"]) <= set(checks.REASONS)
