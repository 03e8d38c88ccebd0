"""Everything without a model: prompts, labels, views, masks, losses alone, metrics."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import image_ops, labelme, mask_ops, published
from input_pipeline.conversation import encode_conversation, encode_prompt
from input_pipeline.tokenizer import load_tokenizer
from miras_jax.errors import UserError
from miras_jax.evaluation import metrics
from miras_jax.parity.port import on_host
from miras_jax.parity.table import EXACT, LOSS
from miras_jax.parity.training import TERMS, raw_loss
from miras_jax.training import losses

ROLES = {"human": "user", "gpt": "assistant"}
TOKENIZER = "tokenizer/tokenizer.model"


def compare(folder, table):
  for case, files in (
    (prompts, ("prompts.json", TOKENIZER)),
    (tokens, ("tokenizer/examples.json", TOKENIZER)),
    (collate, ("collate.json", "collate.npz", TOKENIZER)),
    (views, ("preprocess.npz",)),
    (items, ("dataset_items.npz", "prompts.json", "preprocess.npz")),
    (raster, ("raster.json", "raster.npz")),
    (mask_losses, ("losses.npz",)),
    (numbers, ("metrics.json", "metrics.npz")),
  ):
    lacking = [name for name in files if not folder.has(name)]
    if lacking:
      table.skip(case.__name__, f"no {', '.join(lacking)}")
      continue
    try:
      case(folder, table)
    except (KeyError, TypeError, IndexError) as error:
      raise UserError(
        f"{folder.path}: {' or '.join(files)} lacks or garbles {error}"
      ) from None


# -- text -----------------------------------------------------------------------------


def _tokenizer(folder, *, legacy):
  return load_tokenizer(folder.path / "tokenizer", legacy=legacy)


def prompts(folder, table):
  """Training, chat and validation prompts of every dialogue, as text."""
  tokenizer = _tokenizer(folder, legacy=False)

  def text(row):
    decoded = tokenizer.decode(row.tokens_L[1:])
    return decoded.replace("<im_patch>", "<image>")

  for n, item in enumerate(folder.json("prompts.json")["items"]):
    turns = [(ROLES[t["from"]], t["value"]) for t in item["dialogue"]]
    with_image = text(encode_conversation(turns, tokenizer, num_image_tokens=1))
    # The published texts hold the bare tag; collating puts the marks around it.
    with_image = with_image.replace("<im_start><image><im_end>", "<image>")
    ours = {
      "prompt_train_no_image": text(encode_conversation(turns, tokenizer)),
      "prompt_train_image_first": with_image,
      "prompt_train_image_last": with_image,
    }
    for key, value in ours.items():
      table.text(f"prompts/{n}/{key}", value, item[key])
    for k, golden in enumerate(item["prompts_chat"]):
      row = encode_prompt(turns[: 2 * k + 1], tokenizer, num_image_tokens=1)
      table.text(f"prompts/{n}/chat_{k}", text(row), golden)
    for k, golden in enumerate(item["prompts_validation"]):
      row = encode_conversation(turns[2 * k : 2 * k + 2], tokenizer)
      table.text(f"prompts/{n}/validation_{k}", text(row), golden)


def tokens(folder, table):
  for legacy in (False, True):
    tokenizer = _tokenizer(folder, legacy=legacy)
    key = f"ids_legacy_{str(legacy).lower()}"
    for n, example in enumerate(folder.json("tokenizer/examples.json")):
      ours = np.array(published.tokenise(example["text"], tokenizer))
      table.number(f"tokenizer/{n}/{key}", ours, np.array(example[key]), EXACT)


def collate(folder, table):
  """Ids, labels and masks by the published rule, its drift included (quirk 11)."""
  for name, case in folder.json("collate.json")["cases"].items():
    tokenizer = _tokenizer(folder, legacy=name == "legacy_true")
    ours = published.collate(
      case["conversations"], tokenizer, model_max_length=case["model_max_length"]
    )
    for key, value in ours.items():
      table.tensor(f"{name}/{key}", value, EXACT, file="collate.npz")


# -- pixels ---------------------------------------------------------------------------


def _chw(image_HWC):
  return np.moveaxis(np.asarray(image_HWC), -1, 0)


def _sizes(folder):
  golden = folder.npz("preprocess.npz")
  return [int(golden[f"{name}_image_size"]) for name in ("sam", "aux", "clip")]


def _cases(arrays):
  return sorted({key.split("/")[0] for key in arrays if "/" in key})


def _float_views(image, sizes):
  sam, aux, clip = sizes
  aux_view = image_ops.aux_center_crop_float(image, aux)
  return (
    _chw(image_ops.sam_input_float(image, sam)),
    _chw(aux_view),
    _chw(image_ops.clip_view_float(aux_view, clip)),
  )


def views(folder, table):
  """The three published views, and points and boxes carried along."""
  file = "preprocess.npz"
  golden, sizes = folder.npz(file), _sizes(folder)
  for case in _cases(golden):
    image = golden[f"{case}/image_uint8"]
    hw = image.shape[:2]
    canvas, (height, width) = image_ops.sam_view(image, sizes[0])
    resized = canvas[:height, :width]
    table.tensor(f"{case}/resized_uint8", resized, EXACT, file=file)
    table.tensor(f"{case}/target_size", np.array([height, width]), EXACT, file=file)
    for name, view in zip(
      ("sam", "aux", "clip"), _float_views(image, sizes), strict=True
    ):
      table.tensor(f"{case}/{name}_input", view, file=file)
    points = image_ops.points_to_canvas(golden[f"{case}/coords_in"], hw, sizes[0])
    boxes = image_ops.boxes_to_canvas(golden[f"{case}/boxes_in"], hw, sizes[0])
    table.tensor(f"{case}/coords_out", points, file=file)
    table.tensor(f"{case}/boxes_out", boxes, file=file)


def items(folder, table):
  """What the published training data set returns for the first dialogues."""
  file = "dataset_items.npz"
  golden, sizes = folder.npz(file), _sizes(folder)
  dialogues = folder.json("prompts.json")["items"]
  for case in _cases(golden):
    image = golden[f"{case}/image_uint8"]
    sam, aux, clip = _float_views(image, sizes)
    named = {"images": sam, "images_aux": aux, "images_clip": clip}
    for name, view in named.items():
      table.tensor(f"{case}/{name}", view, file=file)
    item = dialogues[int(case)]
    mask = published_mask(item["mask_json"], item["focus"], image.shape[:2])
    table.tensor(f"{case}/masks", mask[None], EXACT, file=file)
    hw = np.array(image.shape[:2])
    table.tensor(f"{case}/label_shape", hw, EXACT, file=file)
    resized = image_ops.resized_hw(*image.shape[:2], sizes[0])
    table.tensor(f"{case}/resize", np.array(resized), EXACT, file=file)


def published_mask(document, target, hw=None):
  """Compatibility option: all labels that hold the target; two points are a line."""
  annotation = labelme.parse_annotation(document)
  shapes = [
    (s.kind, s.points) for s in annotation.shapes if target.lower() in s.label.lower()
  ]
  hw = hw or (annotation.height, annotation.width)
  return mask_ops.rasterise_shapes(shapes, *hw, published=True)


def raster(folder, table):
  for name, case in folder.json("raster.json").items():
    document = folder.json(case["file"])
    if case["target"] is None:
      shapes = [(s["label"], s["points"]) for s in document["shapes"]]
      hw = folder.npz("raster.npz")[name].shape
      mask = mask_ops.rasterise_reasonseg(shapes, *hw)
    else:
      mask = published_mask(document, case["target"])
    table.tensor(name, mask, EXACT, file="raster.npz")


# -- losses and metrics ---------------------------------------------------------------


def mask_losses(folder, table):
  """Each mask loss alone, with its gradient, and the edges of the boundary loss."""
  file = "losses.npz"
  golden = folder.npz(file)
  threshold = folder.get("loss.boundary_threshold")

  @jax.jit
  def every(logits, targets):
    """One program a case: {loss: (value, gradient)}, {mask: its edges}."""
    both = {
      name: jax.value_and_grad(functools.partial(raw_loss, name, folder.get))(
        logits, targets
      )
      for name in TERMS.values()
    }
    masks = {"pred": jax.nn.sigmoid(logits) > threshold, "gt": targets}
    edges = {
      key: losses.sobel_edges(mask.astype(jnp.float32)[:, None])
      for key, mask in masks.items()
    }
    return both, edges

  for case in _cases(golden):
    logits, targets = golden[f"{case}/logits"], golden[f"{case}/targets"]
    both, edges = on_host(every(logits, targets))
    for name in TERMS.values():
      value, grad = both[name]
      table.tensor(f"{case}/{name}", value, LOSS, file=file)
      table.tensor(f"{case}/grad_{name}", grad, file=file)
    for key in ("pred", "gt"):
      table.tensor(f"{case}/sobel_edges_{key}", edges[key], file=file)


def numbers(folder, table):
  """The published evaluation metrics."""
  golden, arrays = folder.json("metrics.json"), folder.npz("metrics.npz")
  ours = {
    "cIoU": metrics.published_ciou,
    "pixel_accuracy_roi": metrics.published_roi_accuracy,
  }
  if importlib.util.find_spec("skimage"):
    ours["bIoU"] = metrics.published_biou
    edges(table, arrays)
  else:
    table.skip("metrics bIoU and Canny edges", "scikit-image is not installed")
  pairs = {k: v for k, v in golden["pairs"].items() if isinstance(v, dict)}
  for key, metric in ours.items():
    found = [metric(arrays[f"{k}/pred"], arrays[f"{k}/gt"]) for k in pairs]
    for (name, want), value in zip(pairs.items(), found, strict=True):
      table.number(f"metrics/pairs/{name}/{key}", value, want[key], LOSS)
    mean = golden["pairs"][f"mean_{key}"]
    table.number(f"metrics/pairs/mean_{key}", np.mean(found), mean, LOSS)
  for name, case in golden["validate"].items():
    groups = [
      [(arrays[f"{k}/pred"], arrays[f"{k}/gt"]) for k in group]
      for group in case["groups"]
    ]
    for key, value in metrics.published_validate(groups).items():
      table.number(f"metrics/validate/{name}/{key}", value, case[key], LOSS)
  for name, areas in golden["intersection_union"].items():
    found = metrics.intersection_union(arrays[f"{name}/pred"], arrays[f"{name}/gt"])
    for key, value in zip(("intersection", "union", "target"), found, strict=True):
      label = f"metrics/intersection_union/{name}/{key}"
      table.number(label, value, np.array(areas[key]), EXACT)


def edges(table, arrays):
  for case in _cases(arrays):
    for key, mask in (
      ("pred_bool", arrays[f"{case}/pred"].astype(bool)),
      ("gt_uint8", arrays[f"{case}/gt"]),
    ):
      found = metrics.canny_edges(mask)
      table.tensor(f"{case}/canny_{key}", found, EXACT, file="metrics.npz")
