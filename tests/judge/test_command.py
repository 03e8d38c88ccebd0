"""`miras judge` from files to numbers, against a local endpoint and without one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from miras_jax.checkpoint import lock
from miras_jax.errors import UserError
from miras_jax.judge import pictures
from miras_jax.judge.command import main
from tests.judge import predictions
from tests.llm.endpoint import Do, serve, steady

pytest.importorskip("openai", reason="needs the extra llm")
pytest.importorskip("pydantic", reason="needs the extra llm")

FILES = ("judge.json", "scores.jsonl", "pairs.jsonl")
CRITERIA = (
  "progressiveness", "logical_coherence", "content_consistency", "target_relevance",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def files(tmp_path):
  """Options for two systems of six conversations about three photographs."""
  good = [predictions.line(i) for i in range(6)]
  bad = [predictions.line(i, ("Hm.", "Hm.")) for i in range(6)]
  return [
    f"--predictions={predictions.write(tmp_path / 'good.jsonl', good)}",
    f"--against={predictions.write(tmp_path / 'bad.jsonl', bad)}",
    f"--images-dir={predictions.photographs(tmp_path / 'photos')}",
  ]


def at(url, *more):
  """Options of a judge at an endpoint that is given little patience."""
  return ["--model=m", f"--endpoint={url}", "--backoff=0", "--attempts=3", *more]


def result(out):
  return json.loads((out / "judge.json").read_text())


def contents(out):
  return {name: (out / name).read_bytes() for name in FILES}


def scored(level, winner="tie"):
  """A judge of one opinion."""

  def script(body, n):
    names = body["response_format"]["json_schema"]["schema"]["properties"]
    fields = {"reason": "so"} | {name: level for name in CRITERIA if name in names}
    return Do.say(
      json.dumps(fields | ({"winner": winner} if "winner" in names else {}))
    )

  return script


def test_rules_prefer_answers_that_answer(files, tmp_path, capsys):
  assert main([*files, "--model=rules", f"--out={tmp_path / 'out'}"]) == 0
  judge = result(tmp_path / "out")["judges"]["rules"]
  assert judge["pairs"]["win_rates"][0]["value"] == 1.0
  assert judge["order"]["orders_agree"]["value"] == 1.0
  assert judge["probes"]["shuffled_answer"]["failed"]["value"] == 0.0
  assert "no pictures" in judge["probes"]["blank_image"]["why"]
  assert "rules (word overlap, no language model" in capsys.readouterr().out


def test_three_systems_are_ranked_together(files, tmp_path):
  out = tmp_path / "out"
  main([*files, "--against=gold", "--model=rules", "--only=pairs", f"--out={out}"])
  pairs = result(out)["judges"]["rules"]["pairs"]
  assert len(pairs["win_rates"]) == 3
  strengths = {name: m["value"] for name, m in pairs["strengths"]["systems"].items()}
  assert strengths[str(tmp_path / "bad.jsonl")] == min(strengths.values())
  assert sum(strengths.values()) == pytest.approx(0)


def test_gold_without_its_masks_is_said(files, tmp_path, capsys):
  line = predictions.line(0)
  del line["targets"][0]["true"]
  path = predictions.write(tmp_path / "old.jsonl", [line])
  options = [f"--predictions={path}", "--against=gold", files[2], "--model=rules"]
  main([*options, f"--out={tmp_path / 'o'}"])
  assert "holds no `true` masks: gold is shown without" in capsys.readouterr().err


def test_judge_is_shown_texts_and_both_pictures(files, tmp_path):
  with serve(steady) as (url, endpoint):
    main([*files, *at(url), f"--out={tmp_path / 'out'}", "--probes=0"])
  shown = [body["messages"][1]["content"] for body in endpoint.seen]
  parts = next(p for p in shown if len(p) == 5 and "red cup" in p[0]["text"])
  kinds = ["text", "text", "image_url", "text", "image_url"]
  assert [p["type"] for p in parts] == kinds
  said = json.loads(parts[0]["text"])
  assert said["target"] == ["red cup"]
  assert set(said["conversation"][0]) == {"user", "first", "second"}
  everything = json.dumps(endpoint.seen)
  assert "good.jsonl" not in everything  # it must not know whom it judges
  assert "bad.jsonl" not in everything


def test_judge_that_likes_the_first_is_found_out(files, tmp_path):
  out = tmp_path / "out"
  with serve(scored(3, "first")) as (url, _):
    main([*files, *at(url), f"--out={out}"])
  judge = result(out)["judges"]["m"]
  assert judge["order"]["first_position_rate"]["value"] == 1.0
  assert judge["order"]["orders_agree"]["value"] == 0.0
  (rate,) = judge["pairs"]["win_rates"]
  assert (rate["value"], rate["ties"]) == (0.5, 6)  # disagreement is a tie


def test_judge_that_looks_at_nothing_fails_the_probes(files, tmp_path):
  out = tmp_path / "out"
  with serve(scored(4)) as (url, _):
    main([*files, *at(url), f"--out={out}"])
  for probe in result(out)["judges"]["m"]["probes"].values():
    assert (probe["n"], probe["drop"]["value"], probe["failed"]["value"]) == (6, 0, 1)


def test_blank_image_is_blank(files, tmp_path):
  seen = {}

  def script(body, n):
    seen.setdefault(json.dumps(body["messages"]), 0)
    return scored(4)(body, n)

  with serve(script) as (url, _):
    main([*files, *at(url, "--only=scores", "--probes=6"), f"--out={tmp_path / 'o'}"])
  pictures = [text.split("base64,")[1].split('"')[0] for text in seen]
  # 12 scores of two systems, 6 shuffled; 6 blank ones of one size are one picture.
  assert max(map(pictures.count, pictures)) == 6


def test_broken_refused_and_half_replies_are_counted(files, tmp_path, capsys):
  def script(body, n):
    first = json.loads(body["messages"][1]["content"][0]["text"])["target"]
    if first == ["red cup"]:
      return Do.refuse()
    if first == ["blue ball"] and len(body["messages"]) == 2:
      return Do.say("not now")
    if first == ["green chair"] and body["max_tokens"] == 600:
      return Do.say('{"reason": "it', finish_reason="length")
    return scored(4)(body, n)

  out = tmp_path / "out"
  with serve(script) as (url, _):
    options = [*files, *at(url, "--only=scores", "--probes=0"), f"--out={out}"]
    assert main(options) == 1
  judge = result(out)["judges"]["m"]
  assert judge["unjudged"] == {"refused": 2}
  assert judge["flawed_replies"] == {"broken": 2, "half": 2, "refused": 2}
  assert judge["scores"][str(tmp_path / "good.jsonl")]["mean"]["n"] == 5
  assert "no judgement: m: c0: refused" in capsys.readouterr().out
  assert main([*options, "--offline", "--max-unjudged=2"]) == 0


def test_troubled_endpoint_gives_the_numbers_of_a_sound_one(files, tmp_path):
  def troubled(body, n):
    trouble = [Do.error(429), Do.drop(), Do.raw('{"cho', promised=50), Do.error(502)]
    kind = random.Random(json.dumps(body)).randrange(8)
    return trouble[kind] if n == 0 and kind < len(trouble) else steady(body, n)

  for name, script in (("sound", steady), ("troubled", troubled)):
    with serve(script) as (url, _):
      main([*files, *at(url), f"--out={tmp_path / name}"])
  assert contents(tmp_path / "sound") == contents(tmp_path / "troubled")


def test_replay_needs_nobody(files, tmp_path, monkeypatch):
  out = tmp_path / "out"
  with serve(steady) as (url, endpoint):
    main([*files, *at(url), f"--out={out}"])
    first, asked = contents(out), len(endpoint.seen)
    main([*files, *at(url), f"--out={out}"])
    assert len(endpoint.seen) == asked  # all were stored
  for name in FILES:
    (out / name).unlink()
  monkeypatch.setitem(sys.modules, "openai", None)
  main([*files, "--model=m", "--offline", f"--out={out}"])
  assert contents(out) == first


def test_killed_run_goes_on_to_the_same_bytes(files, tmp_path):
  slow, chance = 0.03, random.Random(7)

  def script(body, n):
    time.sleep(slow)
    return steady(body, n)

  with serve(script) as (url, endpoint):
    main([*files, *at(url), f"--out={tmp_path / 'whole'}"])
    asked = len(endpoint.seen)
    argv = [*files, *at(url, "--concurrency=2"), f"--out={tmp_path / 'killed'}"]
    for _ in range(3):
      before = len(endpoint.seen)
      process = subprocess.Popen(
        [sys.executable, "-m", "miras_jax.judge", *argv],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
      )  # fmt: skip
      wanted = before + chance.randrange(2, asked // 4)
      while len(endpoint.seen) < wanted and process.poll() is None:
        time.sleep(0.005)
      process.send_signal(signal.SIGKILL)
      assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/judge.json").exists()
    main(argv)
    # Only what was under way at a kill is asked again.
    assert len(endpoint.seen) - asked <= asked + 3 * 2
  assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_two_judges_agree_with_themselves_or_not(files, tmp_path):
  out = tmp_path / "out"
  with serve(steady) as (url, _):
    models = ["--model=m", "--model=other", "--model=rules", f"--endpoint={url}"]
    main([*files, *models, "--probes=0", f"--out={out}"])
  found = result(out)["agreement"]
  assert set(found) == {*CRITERIA, "winner"}
  pairs = [(k["a"], k["b"]) for k in found["winner"]["kappa"]]
  assert pairs == [("m", "other"), ("m", "rules"), ("other", "rules")]
  assert found["target_relevance"]["alpha"]["judges"]["n"] == 12
  assert found["target_relevance"]["alpha"]["judges"]["raters"] == 3


def test_estimate_asks_nobody(files, tmp_path, capsys):
  with serve(steady) as (url, endpoint):
    options = [
      *files,
      *at(url, "--estimate", "--price=1,10"),
      f"--out={tmp_path / 'o'}",
    ]
    assert main(options) == 0
    assert not endpoint.seen
  said = capsys.readouterr().err
  assert "m: 36 requests to send (0 answered before)" in said
  assert "about $0." in said


def test_run_that_may_cost_too_much_does_not_start(files, tmp_path):
  with serve(steady) as (url, endpoint):
    options = [*files, *at(url, "--max-cost=0.01"), f"--out={tmp_path / 'o'}"]
    with pytest.raises(UserError, match="no price of m is known; give --price"):
      main(options)
    with pytest.raises(UserError, match=r"may cost \$0.\d+, --max-cost=0.01"):
      main([*options, "--price=1,10"])
    assert not endpoint.seen


@pytest.mark.parametrize("words", [[], ["page"]])
def test_two_runs_into_one_folder_are_told(files, tmp_path, words):
  own = [] if words else ["--model=rules"]
  with lock.hold(tmp_path, "miras judge"):
    with pytest.raises(UserError, match="is in use by `miras judge`"):
      main([*words, *files, *own, f"--out={tmp_path}"])


def test_wrong_key_is_one_line_and_ends_it(files, tmp_path):
  with serve(lambda body, n: Do.error(401, "no")) as (url, endpoint):
    with pytest.raises(UserError, match=r"401: no; \$OPENAI_API_KEY is not set"):
      main([*files, *at(url, "--concurrency=1"), f"--out={tmp_path / 'o'}"])
    assert len(endpoint.seen) == 1


def test_what_is_not_installed_is_one_line(files, tmp_path, monkeypatch, capsys):
  from miras_jax import options

  def end(status):
    raise SystemExit(status)

  monkeypatch.setitem(sys.modules, "openai", None)
  monkeypatch.setattr(options.streams, "finish", end)
  with pytest.raises(SystemExit, match="1"):
    options.run(main, [*files, *at("http://h/v1"), f"--out={tmp_path / 'o'}"])
  assert "pip install 'miras_jax[llm]'" in capsys.readouterr().err


@pytest.mark.parametrize(
  "more, said",
  [
    (["--model=m"], "--endpoint=URL is missing"),
    (
      ["--model=m", "--model=n", "--model=o", "--endpoint=a", "--endpoint=b"],
      "2 --end",
    ),
    (["--model=rules", "--model=rules"], "one is given twice"),
    (["--model=rules", "--against=gold", "--against=gold"], "is given already"),
    (["--model=rules", "--rpm=nan"], "--rpm=nan must be at least"),
    (["--model=rules", "--extra=3"], "want a JSON object"),
    (["--model=rules", '--extra={"top_p": NaN}'], "want a JSON object"),
    (["--model=rules", '--extra={"stop": "\ud800"}'], "want a JSON object"),
    (["--model=rules", "--timeout=inf"], "--timeout=inf: want at most"),
    (["--model=rules", "--backoff=1e300"], "--backoff=1e.300: want at most"),
    (["--model=rules", "--concurrency=100000000"], "want at most 1,024"),
    (["--model=", "--endpoint=http://h/v1"], "--model= is empty"),
    (["--model=rules", "--limit=0"], "--limit=0 must be at least 1"),
    (["--model=m", "--endpoint=localhost"], "want a URL"),
  ],
)
def test_option_that_makes_no_sense_is_one_line(files, tmp_path, more, said):
  with pytest.raises(UserError, match=said):
    main([*files, *more, f"--out={tmp_path / 'o'}"])


@pytest.mark.parametrize(
  "spoil, said",
  [
    (lambda p: (p / "photos/1.png").unlink(), "c2: its image '1.png' is not there"),
    (lambda p: (p / "photos/1.png").write_text("x"), "c2: cannot be drawn: not an"),
  ],
)
def test_image_that_cannot_be_shown_is_named(files, tmp_path, spoil, said):
  spoil(tmp_path)
  with serve(steady) as (url, endpoint):
    options = [*files, *at(url), f"--out={tmp_path / 'o'}"]
    with pytest.raises(UserError, match=said):
      main(options)
    assert not endpoint.seen


def test_image_outside_of_the_folder_is_not_read(tmp_path, files):
  line = predictions.line(0, image="../good.jsonl")
  path = predictions.write(tmp_path / "evil.jsonl", [line])
  options = [f"--predictions={path}", files[2], *at("http://127.0.0.1:9/v1")]
  with pytest.raises(UserError, match="leaves its folder"):
    main([*options, f"--out={tmp_path / 'o'}"])


def test_more_masks_than_memory_holds_are_named(tmp_path, files, monkeypatch):
  monkeypatch.setattr(pictures, "MOST_PIXELS", 100)
  with pytest.raises(UserError, match="cannot be drawn: .* masks of .* want at most"):
    main(["page", *files, f"--out={tmp_path / 'o'}"])


def test_mask_of_another_size_is_named(tmp_path, files):
  line = predictions.line(0)
  line["targets"][0]["mask"] = {"size": [2, 2], "counts": [4]}
  path = predictions.write(tmp_path / "odd.jsonl", [line])
  options = [f"--predictions={path}", files[2], *at("http://127.0.0.1:9/v1")]
  with pytest.raises(
    UserError, match="c0: cannot be drawn: its mask is of 2x2, the im"
  ):
    main([*options, f"--out={tmp_path / 'o'}"])
