"""Our model on a golden folder: parameters, and the forward pass in its pieces.

I images, B conversations, K masks, T tokens, D decoder width, C SAM width, H W rows and
columns. The folder gives normalised float images, so the parts are called one by one
and not through `Miras.__call__`, which takes uint8 views.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from miras_jax.convert.tables import miras
from miras_jax.convert.tables.mapping import convert, shapes_of
from miras_jax.errors import UserError
from miras_jax.inference.prepare import rounded
from miras_jax.models.attention import segment_mask
from miras_jax.models.clip_vit import ClipVit
from miras_jax.models.convnext import ConvNext
from miras_jax.models.fusion import PatchMining, Projector
from miras_jax.models.llama import Llama
from miras_jax.models.miras import init_params
from miras_jax.models.sam import Sam
from miras_jax.models.sam_decoder import bilinear_matrix
from miras_jax.models.seg_prompt import SegPrompt
from miras_jax.parity.folder import miras_config
from miras_jax.parity.rows import find_segs, splice

STATE, ALIGN, LORA = (
  "state_dict.safetensors",
  "obj_cross_attention.safetensors",
  "lora_adapter.safetensors",
)


def nhwc(x):
  return np.moveaxis(np.asarray(x), -3, -1)


def nchw(x):
  return np.moveaxis(np.asarray(x), -1, -3)


def on_host(tree):
  """numpy arrays: each small operation on a jax array would be its own program."""
  return jax.tree.map(np.asarray, tree)


def run(module, params, *args, **options):
  """`module.apply` compiled; with `capture` also the outputs of all submodules."""
  return on_host(_apply(module, params, *args, **options))


@functools.partial(jax.jit, static_argnums=0, static_argnames=("method", "capture"))
def _apply(module, params, *args, method=None, capture=False, **kwargs):
  options = {"capture_intermediates": True} if capture else {}
  return module.apply({"params": params}, *args, method=method, **kwargs, **options)


def flat_captures(state):
  """{"path/of/submodule": output} of a `capture` run."""
  flat = flatten_dict(state["intermediates"], sep="/")
  return {
    path.removesuffix("/__call__"): value[0]
    for path, value in flat.items()
    if path.endswith("__call__")
  }


class Port:
  """The folder's model under our names.

  `image_B` is the image of each conversation, `image_K` that of each decoded mask.
  """

  def __init__(self, folder, dtype=jnp.float32, weights="trained"):
    self.folder, self.dtype = folder, dtype
    self.cfg = miras_config(folder)
    shapes = jax.eval_shape(lambda rng: init_params(self.cfg, rng), jax.random.key(0))
    self.params = self._load(shapes, STATE, miras.MIRAS)
    if weights == "int8":
      self.params = on_host(rounded(self.params))
    self.inputs = folder.npz("inputs.npz")
    offset = self.inputs["offset"]
    self.image_B = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    self.rows = self.spliced("input_ids")
    self.segs = self.located(self.rows, "input_ids")
    self.gt = [self.inputs[f"gt_masks_{i}"] for i in range(len(offset) - 1)]
    self.image_K = self._images_of_masks(self.segs)
    self.clip_images = nhwc(self.inputs["images_clip"])
    self.aux_images = nhwc(self.inputs["images_aux"]) if self.cfg.convnext else None
    self.sam_images = nhwc(self.inputs["images"])

  # -- parameters

  def _load(self, shapes, file, table, part=""):
    wanted = {k: v for k, v in shapes_of(shapes).items() if part in k}
    try:
      return convert(self.folder.tensors(file), table, wanted)
    except UserError as error:
      raise UserError(f"{self.folder.path / file}: {error}") from None

  def aligned_params(self):
    """(config, parameters) with the [OBJ] cross-attention."""
    cfg = miras_config(self.folder, alignment="published")
    hidden_BTD, index_BM = jnp.zeros((1, 2, cfg.llama.width)), jnp.zeros((1, 1), int)
    shapes = jax.eval_shape(
      self.seg_prompt(cfg).init, jax.random.key(0), hidden_BTD, *[index_BM] * 3
    )
    shapes = {"seg_prompt": shapes["params"]}
    return cfg, joined(self.params, self._load(shapes, ALIGN, miras.ALIGN, "/align/"))

  def lora_params(self):
    """(config, parameters) with the adapters."""
    cfg = miras_config(self.folder, lora=True)
    x_BTD, mask_BTS = jnp.zeros((1, 2, cfg.llama.width)), jnp.ones((1, 2, 2), bool)
    shapes = jax.eval_shape(
      self.llama(cfg).init, jax.random.key(0), x_BTD, jnp.zeros((1, 2), int), mask_BTS
    )
    shapes = {"llm": shapes["params"]}
    return cfg, joined(self.params, self._load(shapes, LORA, miras.TRAINING, "/lora_"))

  # -- rows

  def splice(self, ids_BT, labels_BT, mask_BT, **options):
    options = {
      "side": self.folder.get("mm.tokenizer_padding_side", "right"),
      "max_length": self.folder.get("mm.tokenizer_model_max_length", None),
    } | options
    return splice(
      ids_BT,
      labels_BT,
      mask_BT,
      num_tokens=self.cfg.num_image_tokens,
      image_token=self.folder.get("mm.image_token_index", -200),
      **options,
    )

  def spliced(self, name):
    inputs = self.inputs
    return self.splice(inputs[name], inputs["labels"], inputs["attention_masks"])

  def located(self, rows, ids, **options):
    ids_BT = self.inputs[ids] if isinstance(ids, str) else ids
    tokens = self.folder.get("tokens")
    return find_segs(
      rows,
      ids_BT,
      seg=self.folder.get("tokens.SEG"),
      obj=tokens.get("OBJ", -1),
      **options,
    )

  def _images_of_masks(self, segs):
    """Image of each [SEG]; the caller drops those on an image without masks."""
    image_K = self.image_B[segs.rows_K]
    for image, masks in enumerate(self.gt):
      count = int((image_K == image).sum())
      if len(masks) and count != len(masks):
        raise UserError(
          f"{self.inputs.path}: image {image} has {len(masks)} gt_masks_{image} and"
          f" {count} [SEG] in its conversations"
        )
    return image_K

  # -- the forward pass

  def clip(self, images_BHWC, **options):
    return run(
      ClipVit(self.cfg.clip, self.dtype), self.params["clip"], images_BHWC, **options
    )

  def full_clip(self):
    """The tower without an end, so that the state of every layer is captured."""
    whole = dataclasses.replace(self.cfg.clip, select_layer=-1)
    return run(
      ClipVit(whole, self.dtype), self.params["clip"], self.clip_images, capture=True
    )

  def convnext(self, images_BHWC, *, target_grid=None, **options):
    cfg = self.cfg.convnext
    if target_grid:
      cfg = dataclasses.replace(cfg, target_grid=target_grid)
    return run(
      ConvNext(cfg, self.dtype), self.params["convnext"], images_BHWC, **options
    )

  @functools.cached_property
  def encoded(self):
    """What training treats as constant: CLIP tokens, aux features, SAM features."""
    out = {"clip": self.clip(self.clip_images)}
    if self.cfg.convnext:
      out["aux"] = self.convnext(self.aux_images)
    out["sam"] = self.sam("encode", self.sam_images)
    return out

  @functools.cached_property
  def main(self):
    """`forward` of the main batch; `forward_main` is the same for other parameters."""
    return self.forward_main(self.params)

  def forward_main(self, params):
    return on_host(self._forward_main(params))

  @functools.cached_property
  def _forward_main(self):
    rows, segs, _ = self.rows, self.segs, self.encoded  # kept now, not while traced
    return jax.jit(lambda params: self.forward(params, rows, segs))

  def image_tokens(self, params, clip_BND, aux_BHWC=None):
    """Mining and projector; differentiable."""
    if self.cfg.convnext:
      mining = PatchMining(self.cfg.clip.width, self.cfg.clip.grid, self.dtype)
      clip_BND = mining.apply({"params": params["mining"]}, clip_BND, aux_BHWC)
    projector = Projector(self.cfg.llama.width, self.dtype, self.cfg.projector)
    return projector.apply({"params": params["projector"]}, clip_BND)

  def embed(self, params, rows, image_tokens_BND):
    """Embeddings of spliced rows, zeros at padding; differentiable."""
    x_BTD = params["llm"]["embed"]["embedding"].astype(self.dtype)[rows.tokens_BT]
    slot_BT1 = jnp.maximum(rows.image_slot_BT, 0)[..., None]
    image_BTD = jnp.take_along_axis(image_tokens_BND, slot_BT1, axis=1)
    x_BTD = jnp.where(rows.image_slot_BT[..., None] >= 0, image_BTD, x_BTD)
    return jnp.where(rows.mask_BT[..., None], x_BTD, 0)

  def embedded(self, rows, image_tokens_BND):
    """`embed` compiled, with the folder's own parameters."""
    return on_host(jax.jit(self.embed)(self.params, rows, image_tokens_BND))

  def llama(self, cfg=None):
    return Llama((cfg or self.cfg).llama, self.dtype)

  def llama_inputs(self, rows):
    """(positions, attention mask) of spliced rows."""
    return rows.positions_BT, _segment_mask(rows.mask_BT.astype(np.int32))

  def seg_prompt(self, cfg=None):
    cfg = cfg or self.cfg
    return SegPrompt(cfg.seg_prompt, cfg.llama.width, self.dtype)

  @functools.cached_property
  def sam_module(self):
    return Sam(self.cfg.sam_encoder, self.cfg.sam_decoder, self.dtype)

  def sam(self, method, *args, **kwargs):
    """A method of Sam by name, or a function of it, compiled."""
    return run(self.sam_module, self.params["sam"], *args, method=method, **kwargs)

  def forward(self, params, rows, segs, *, cfg=None, images=None):
    """Everything after the frozen encoders; differentiable in `params`.

    `images`: the image of each conversation. Returns a dict with `image_tokens` (one
    row an image), `embeds`, `hidden`, `logits`, `prompt [K, C]`,
    `low_res [K, 1, h, w]`, `iou [K, 1]`.
    """
    cfg, images = cfg or self.cfg, self.image_B if images is None else images
    tokens_IND = self.image_tokens(
      params, self.encoded["clip"], self.encoded.get("aux")
    )
    x_BTD = self.embed(params, rows, tokens_IND[images])
    variables = {"params": params["llm"]}
    hidden = self.llama(cfg).apply(variables, x_BTD, *self.llama_inputs(rows))
    logits = self.llama(cfg).apply(variables, hidden, method="logits")
    prompt_BMC = self.seg_prompt(cfg).apply(
      {"params": params["seg_prompt"]}, hidden, *segs
    )
    prompt_KC = prompt_BMC[np.nonzero(segs.valid_BM)]
    low_res, iou = self.decode(params, prompt_KC, images[segs.rows_K])
    return {
      "image_tokens": tokens_IND,
      "embeds": x_BTD,
      "hidden": hidden,
      "logits": logits,
      "prompt": prompt_KC,
      "low_res": low_res,
      "iou": iou,
    }

  def decode(self, params, prompt_KC, image_K):
    """One mask a prompt: (logits [K, 1, h, w], IoU [K, 1]); differentiable."""
    if not len(image_K):
      side = 4 * self.cfg.sam_encoder.grid
      return jnp.zeros((0, 1, side, side)), jnp.zeros((0, 1))
    text = {"text": prompt_KC[:, None, None]}
    logits, iou, _ = self.sam_module.apply(
      {"params": params["sam"]}, self.encoded["sam"][image_K], text, method="decode"
    )
    return logits[:, 0], iou[:, 0]

  def decoded(self, prompt_KC, image_K):
    """`decode` compiled, with the folder's own parameters."""
    decode = jax.jit(functools.partial(self.decode, image_K=image_K))
    return on_host(decode(self.params, prompt_KC))

  def full_size(self, low_res, image):
    """Mask logits [..., h, w] at the original size of an image; differentiable."""
    valid, original = self.inputs["resize_list"], self.inputs["original_sizes"]
    rows, columns = (
      self._resize_matrix(
        low_res.shape[axis - 2], valid[image][axis], original[image][axis]
      )
      for axis in (0, 1)
    )
    return rows @ low_res @ columns.T

  def _resize_matrix(self, low, valid, original):
    canvas = self.cfg.sam_encoder.image_size
    upsample = bilinear_matrix(low, canvas)[: int(valid)]
    return (bilinear_matrix(int(valid), int(original)) @ upsample).astype(np.float32)


_segment_mask = jax.jit(segment_mask)


def joined(*trees):
  """One nested dict of several without a path in common."""
  flat = {}
  for tree in trees:
    flat |= flatten_dict(tree, sep="/")
  return unflatten_dict(flat, sep="/")
