"""A golden PyTorch checkpoint as a person would have it: weights beside settings.

`golden` is the public golden folder or one of `golden_folder.make`, which every clone
can.
"""

import json
import shutil

from miras_jax.convert import command
from tests import golden_folder
from tests.shared_data import GOLDEN

CONTROL = ("[SEG]", "<im_start>", "<im_end>", "<im_patch>", "[OBJ]")


def write(folder, golden=GOLDEN):
  """Weights and config.json of a golden folder; returns what `--set` must say."""
  config = json.loads((golden / "config.json").read_text())
  folder.mkdir()
  shutil.copyfile(golden / "state_dict.safetensors", folder / "model.safetensors")
  settings = config["llm"] | {"model_type": "llama"}
  settings["image_size_aux"] = config["convnext"]["image_size"]
  (folder / "config.json").write_text(json.dumps(settings))
  heads = config["sam"]["dec_num_heads"]
  return [
    f"--set=clip.num_heads={config['clip_vision']['num_attention_heads']}",
    f"--set=sam_decoder.num_heads={heads}",
    f"--set=seg_prompt.num_heads={heads}",
  ]


def convert(folder, tokenizer, golden=GOLDEN):
  """Our folder of the golden checkpoint, made in `folder` -> its path."""
  fields = write(folder / "source", golden)
  command.main(
    [f"--src={folder / 'source'}", f"--dst={folder / 'ours'}", *fields]
    + [f"--tokenizer={tokenizer}"]
  )
  return folder / "ours"


def save_tokenizer(folder):
  """A tokenizer of single ASCII letters with the public control ids, 133 in all."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers

  from input_pipeline.codecs import fast_class

  tokens = golden_folder.PUBLIC_SIZES["tokens"]
  split = pre_tokenizers.ByteLevel(add_prefix_space=False)
  ascii_letters = "\n" + "".join(map(chr, range(32, 127)))
  letters = [split.pre_tokenize_str(c)[0][0] for c in ascii_letters]
  pieces = ["<pad>", "<s>", "</s>", *letters]
  pieces += [f"<unused{i}>" for i in range(tokens["SEG"] - len(pieces))]
  backend = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, []))
  backend.pre_tokenizer, backend.decoder = split, decoders.ByteLevel()
  backend.add_special_tokens(["<pad>", "<s>", "</s>", *CONTROL])
  fast_class()(
    tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
  ).save_pretrained(str(folder))
  return folder
