"""PyTorch's side of `miras bench input`: two data sets behind a torch DataLoader."""

import json
import pathlib

import cv2
import numpy as np
import torch
import transformers
from PIL import Image

from input_pipeline.conversation import encode_conversation
from input_pipeline.examples import Examples
from input_pipeline.image_ops import SAM_MEAN, SAM_STD


def passes(folder, tokenizer, cfg, args, batch_size):
  """A function that makes one pass over `Published`."""
  return _passes(Published(folder, tokenizer, cfg), args, batch_size, _stack)


def passes_of_ours(source, tokenizer, cfg, args, batch_size):
  """A function that makes one pass over our own examples."""
  return _passes(Ours(source, tokenizer, cfg), args, batch_size, _stack)


def _passes(data, args, batch_size, collate):
  loader = torch.utils.data.DataLoader(
    data,
    batch_size=batch_size,
    shuffle=True,
    num_workers=args.workers,
    persistent_workers=True,  # they start before the passes that are timed
    collate_fn=collate,
  )

  def one_pass():
    for _ in loader:
      pass

  return one_pass


class Ours(torch.utils.data.Dataset):
  """Our examples, uint8."""

  def __init__(self, source, tokenizer, cfg):
    self.examples = Examples(source, tokenizer, cfg)

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, i):
    return {k: torch.from_numpy(v) for k, v in _arrays(self.examples[i]).items()}


class Published(torch.utils.data.Dataset):
  """As the published loaders do it: every view is normalised here, in float32."""

  def __init__(self, folder, tokenizer, cfg):
    self.folder = pathlib.Path(folder)
    self.records = json.loads((self.folder / "train.json").read_text())
    self.tokenizer, self.cfg = tokenizer, cfg
    self.processor = transformers.CLIPImageProcessor(
      size={"shortest_edge": cfg.aux_size},
      crop_size={"height": cfg.aux_size, "width": cfg.aux_size},
    )

  def __len__(self):
    return len(self.records)

  def __getitem__(self, i):
    record = self.records[i]
    stem = record["img_id"].removesuffix(".jpg")
    image = cv2.imread(str(self.folder / "images" / record["img_id"]))
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    aux = self.processor(image, return_tensors="pt")["pixel_values"][0]
    return {
      "image_sam": self._sam(image),
      "image_aux": aux,
      "tokens": torch.from_numpy(self._tokens(record["dialogue"])),
      "masks": self._mask(stem, image.shape[:2]),
    }

  def _sam(self, image):
    size = self.cfg.sam_size
    scale = size / max(image.shape[:2])
    height, width = (int(n * scale + 0.5) for n in image.shape[:2])
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous().float()
    mean, std = (torch.from_numpy(x).view(-1, 1, 1) for x in (SAM_MEAN, SAM_STD))
    pixels = (pixels - mean) / std
    return torch.nn.functional.pad(pixels, (0, size - width, 0, size - height))

  def _tokens(self, dialogue):
    roles = {"human": "user", "gpt": "assistant"}
    turns = [(roles[turn["from"]], turn["value"]) for turn in dialogue]
    options = self.cfg.text_options()
    row = encode_conversation(turns, self.tokenizer, **options)
    tokens = np.zeros(self.cfg.max_len, np.int64)
    tokens[: len(row.tokens_L)] = row.tokens_L
    return tokens

  def _mask(self, stem, size):
    annotation = json.loads((self.folder / "masks" / f"{stem}.json").read_text())
    mask = np.zeros(size, np.uint8)
    for shape in annotation["shapes"]:
      points = np.array([shape["points"]], np.int32)
      cv2.polylines(mask, points, True, 1, 1)
      cv2.fillPoly(mask, points, 1)
    return torch.from_numpy(mask).float()


def _arrays(example):
  return {name: np.asarray(value) for name, value in example.items()}


def _stack(examples):
  return {name: torch.stack([ex[name] for ex in examples]) for name in examples[0]}
