"""Generation on a tiny random model; prompts are made by hand, without a tokenizer."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import batch_table
from miras_jax.config import variants
from miras_jax.config.overrides import with_overrides
from miras_jax.inference import mask_decoding
from miras_jax.inference.conversation import Prompt
from miras_jax.inference.generator import Generator
from miras_jax.inference.segs import find_segs
from miras_jax.models import miras

GRID = 2  # image tokens a side
NEW = 12  # new tokens
MASKS = 3


class Ids(NamedTuple):
  """What the generator needs to know of a tokenizer."""

  eos: int = 2
  pad: int = 0
  seg: int = 60
  obj: int = 61


IDS = Ids()


def tiny(encoder="dual", state="none", **seg_prompt):
  """The tiny model, smaller still: compiling is what these tests wait for."""
  cfg = with_overrides(
    variants.VARIANTS["tiny"],
    {"llama.vocab_size": 64, "llama.width": 32, "llama.head_dim": 8,
     "llama.mlp_width": 48, "llama.depth": 2, "clip.image_size": 16, "clip.depth": 2,
     "sam_encoder.image_size": 32, "sam_encoder.global_layers": (0,),
     "sam_encoder.depth": 1},
  )  # fmt: skip
  changed = dataclasses.replace(cfg.seg_prompt, **seg_prompt)
  return dataclasses.replace(
    cfg, convnext=None, encoder=encoder, state=state, seg_prompt=changed
  )


@functools.cache
def model_and_params(**kind):
  cfg = tiny(**kind)
  return miras.Miras(cfg), random_params(cfg)


def random_params(cfg):
  """Random values in every leaf (zero-initialised ones would hide mistakes), and a head
  that mostly answers token t with t + 1, so that the greedy text varies."""
  shapes = jax.eval_shape(functools.partial(miras.init_params, cfg), jax.random.key(0))
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: 0.15 * rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  # Larger in the mask path, so that a state of the wrong step is a mask far off.
  for part in ("seg_prompt", "sam"):
    params[part] = jax.tree.map(lambda leaf: 2 * leaf, params[part])
  embedding_VD = 20 * params["llm"]["embed"]["embedding"]
  params["llm"]["embed"]["embedding"] = embedding_VD
  params["llm"]["lm_head"]["kernel"] += np.roll(embedding_VD, 1, axis=0).T
  params["llm"]["final_norm"]["scale"] += 1
  return jax.tree.map(jnp.asarray, params)


def prompts(cfg, lengths, seed=0):
  """Right-padded prompt rows with the image at the front, and random pictures."""
  rng = np.random.default_rng(seed)
  B, T, N = len(lengths), max(lengths) + 2, cfg.num_image_tokens
  batch = jax.tree.map(np.array, miras.dummy_batch(cfg, batch_size=B, length=T))
  inside_BT = np.arange(T) < np.array(lengths)[:, None]
  batch["tokens"] = np.where(inside_BT, rng.integers(3, 60, (B, T)), IDS.pad)
  batch["positions"] = np.where(inside_BT, np.arange(T), 0)
  batch["segments"] = inside_BT.astype(np.int32)
  slot_T = np.where((np.arange(T) >= 1) & (np.arange(T) <= N), np.arange(T) - 1, -1)
  batch["image_slot"] = np.broadcast_to(slot_T, (B, T)).copy()
  for name in ("image_sam", "image_aux"):
    batch[name] = rng.integers(0, 256, batch[name].shape, dtype=np.uint8)
  batch["valid_hw"] = np.array([[32, 24 + i] for i in range(B)])
  return batch


LENGTHS = (9, 14, 11)


@functools.cache
def generator(**kind):
  model, params = model_and_params(**kind)
  return Generator(model, params, None, max_new_tokens=NEW, max_masks=MASKS)


@functools.cache
def fixed(**kind):
  """(prompts, their encoded images): made once."""
  batch = prompts(tiny(**kind), LENGTHS)
  return batch, generator(**kind).encode(batch)


def answer(batch, encoded, ids=IDS, **kind):
  gen = generator(**kind)
  gen.ids = ids  # token ids are data to the program: no new compilation
  return jax.tree.map(np.asarray, gen.generate(batch, encoded))


def with_controls(**kind):
  """Ids chosen among what the model says anyway, so that [OBJ] and [SEG] do occur."""
  nothing = Ids(eos=-1, seg=-1, obj=-1)
  said = answer(*fixed(**kind), nothing, **kind)["tokens"][0].tolist()
  assert len(set(said)) > 6, "the test needs a model with something to say"
  seg = said[5]
  return Ids(eos=-1, seg=seg, obj=next(t for t in said[:5] if t != seg))


def forced(model, params, batch, out, ids):
  """The same rows in one forward pass, the answers appended as known text."""
  lengths = (batch["segments"] > 0).sum(1)
  B, T = batch["tokens"].shape
  full = {k: np.pad(batch[k], ((0, 0), (0, NEW))) for k in batch_table.prompt_names()}
  full["image_slot"][:, T:] = -1
  segs = jax.tree.map(np.asarray, find_segs(out["tokens"], ids, MASKS))
  for b, n in enumerate(lengths):
    stop = n + out["num_tokens"][b]
    full["tokens"][b, n:stop] = out["tokens"][b, : out["num_tokens"][b]]
    full["segments"][b, :stop] = 1
    full["positions"][b, :stop] = np.arange(stop)
    full["image_slot"][b, n:stop] = -1
  full["seg_pos"] = segs.seg_BM + lengths[:, None]
  full["obj_pos"] = np.where(segs.obj_BM >= 0, segs.obj_BM + lengths[:, None], -1)
  full["seg_valid"] = segs.valid_BM
  return jax.jit(model.apply)({"params": params}, batch | full), lengths


@pytest.mark.parametrize(
  "kind",
  [
    {},
    {"seg_state": "at", "alignment": "none"},
    {"encoder": "shared"},
    {"encoder": "sam_only"},
  ],
  ids=["predict, aligned", "at, not aligned", "shared", "sam_only"],
)
def test_cached_decoding_agrees_with_teacher_forcing(kind):
  model, params = model_and_params(**kind)
  batch, encoded = fixed(**kind)
  ids = with_controls(**kind)
  out = answer(batch, encoded, ids, **kind)
  known, lengths = forced(model, params, batch, out, ids)
  logits = functools.partial(model.apply, {"params": params}, method="logits")
  for b, n in enumerate(lengths):
    count = out["num_tokens"][b]
    got = logits(jnp.asarray(out["states"][b : b + 1, :count]))
    want = logits(known["hidden"][b : b + 1, n - 1 : n + count - 1])
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_array_equal(
      want[0].argmax(-1), out["tokens"][b, :count], err_msg="not greedy"
    )
  assert out["seg_valid"].any(), "the test needs a [SEG]"
  valid = out["seg_valid"].astype(bool)
  np.testing.assert_allclose(
    out["mask_logits"][valid], np.asarray(known["mask_logits"])[valid], atol=1e-4
  )


def with_slots(batch, cfg):
  """(earlier masks as an answer is given them, the same as rows of a batch)."""
  rng, B, E, Q = np.random.default_rng(2), len(LENGTHS), 2, cfg.mask_side
  masks_BEQQ = rng.integers(0, 256, (B, E, Q, Q), dtype=np.uint8)
  valid_BE = np.array([[1, 1], [1, 0], [0, 0]], np.int32)
  origin_BE = np.array([[0, 1], [1, 0], [0, 0]], np.int32)
  given = {"masks": masks_BEQQ, "valid": valid_BE, "origin": origin_BE}
  rows = {"slot_masks": masks_BEQQ, "slot_valid": valid_BE, "slot_origin": origin_BE}
  rows["slot_own"] = np.full((B, E), -1, np.int32)
  rows["slot_seen"] = np.repeat(valid_BE[:, None], MASKS, axis=1)
  return given | {"pick": np.full(B, -1, np.int32)}, batch | rows


@pytest.mark.parametrize("state", ["dense", "both"])
def test_with_earlier_masks_too_cached_decoding_agrees_with_teacher_forcing(state):
  kind = {"state": state}
  cfg = tiny(**kind)
  batch, encoded = fixed(**kind)
  batch = batch | {"image_slot": batch["image_slot"].copy()}
  for b, n in enumerate(LENGTHS):  # the first mask is shown before the last token
    at = np.arange(n - 1 - cfg.slot_tokens, n - 1)
    batch["image_slot"][b, at] = cfg.num_image_tokens + at - at.min(initial=n)
  ids, (model, params) = with_controls(**kind), model_and_params(**kind)
  given, full = with_slots(batch, cfg)
  gen = generator(**kind)
  gen.ids = ids
  asked = [
    Prompt(batch["tokens"][b, :n], batch["image_slot"][b, :n])
    for b, n in enumerate(LENGTHS)
  ]
  out = gen.session(encoded, max(LENGTHS)).turn(asked, slots=given)
  out = jax.tree.map(np.asarray, out)
  known, _ = forced(model, params, full, out, ids)
  other = full | {"slot_masks": 0 * full["slot_masks"]}
  other, _ = forced(model, params, other, out, ids)
  valid = out["seg_valid"].astype(bool)
  got, want = out["mask_logits"][valid], np.asarray(known["mask_logits"])[valid]
  assert np.abs(want - np.asarray(other["mask_logits"])[valid]).max() > 1e-2
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_seg_in_the_last_place_is_read_where_its_own_state_is_wanted():
  kind = {"seg_state": "at", "alignment": "none"}
  model, params = model_and_params(**kind)
  batch, encoded = fixed(**kind)
  said = answer(batch, encoded, Ids(eos=-1, seg=-1, obj=-1), **kind)["tokens"]
  ids = Ids(eos=-1, seg=int(said[0, -1]), obj=-1)
  out = answer(batch, encoded, ids, **kind)
  assert NEW - 1 in out["seg_at"][0]
  known, _ = forced(model, params, batch, out, ids)
  valid = out["seg_valid"].astype(bool)
  np.testing.assert_allclose(
    out["mask_logits"][valid], np.asarray(known["mask_logits"])[valid], atol=1e-4
  )


def test_a_row_depends_neither_on_the_others_nor_on_padding():
  batch, encoded = fixed()
  together = answer(batch, encoded)
  b, n = 0, LENGTHS[0]
  alone = {k: batch[k][b : b + 1, :n] for k in batch_table.prompt_names()}
  out = answer(alone, {k: v[b : b + 1] for k, v in encoded.items()})
  np.testing.assert_array_equal(out["tokens"][0], together["tokens"][b])
  np.testing.assert_allclose(out["states"][0], together["states"][b], atol=1e-4)


def test_rows_stop_at_eos_and_are_padded_after_it():
  free = answer(*fixed(), Ids(eos=-1))["tokens"]
  eos = int(free[0, 3])
  out = answer(*fixed(), Ids(eos=eos))
  count = free[0].tolist().index(eos) + 1
  assert out["num_tokens"][0] == count and out["ended"][0]
  np.testing.assert_array_equal(out["tokens"][0, :count], free[0, :count])
  assert (out["tokens"][0, count:] == IDS.pad).all()


def test_generation_without_eos_goes_to_the_limit():
  out = answer(*fixed(), Ids(eos=-1))
  np.testing.assert_array_equal(out["num_tokens"], [NEW] * 3)
  assert not out["ended"].any()


def test_no_seg_gives_no_mask():
  out = answer(*fixed(), Ids(eos=-1, seg=-1))
  assert not out["seg_valid"].any() and not out["mask_logits"].any()
  np.testing.assert_array_equal(out["num_seg"], [0, 0, 0])


def test_first_masks_are_kept_and_all_are_counted():
  tokens = jnp.array([[60, 7, 60, 60, 2], [7, 7, 7, 7, 2]])
  segs = find_segs(tokens, IDS, 2)
  np.testing.assert_array_equal(segs.seg_BM[0], [0, 2])
  np.testing.assert_array_equal(segs.valid_BM, [[1, 1], [0, 0]])
  np.testing.assert_array_equal(segs.count_B, [3, 0])


def test_only_slots_that_some_row_has_are_decoded():
  def three_times(prompt_B1C):
    return 3 * prompt_B1C

  prompt_BMC, valid_BM = jnp.ones((2, 3, 4)), jnp.array([[1, 0, 0], [1, 1, 0]])
  found_BMC = mask_decoding.masks(three_times, (prompt_BMC,), valid_BM)
  np.testing.assert_array_equal(found_BMC[:, :2], 3)
  np.testing.assert_array_equal(found_BMC[:, 2], 0)


def test_each_seg_takes_the_obj_since_the_seg_before_it():
  tokens = jnp.array([[61, 5, 60, 60, 61, 61, 60, 61]])
  segs = find_segs(tokens, IDS, 3)
  np.testing.assert_array_equal(segs.obj_BM, [[0, -1, 5]])


def test_more_mask_slots_than_tokens():
  segs = find_segs(jnp.array([[60, 5]]), IDS, 4)
  np.testing.assert_array_equal(segs.valid_BM, [[1, 0, 0, 0]])


def test_one_program_for_all_prompts_of_one_shape():
  batch, encoded = fixed()
  answer(batch, encoded)
  before = generator()._generate.jitted._cache_size()
  answer(prompts(tiny(), LENGTHS, seed=3), encoded, Ids(eos=7))
  assert generator()._generate.jitted._cache_size() == before
