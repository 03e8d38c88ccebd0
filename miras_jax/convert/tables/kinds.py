"""Every naming by the name that `miras convert --from` and `--to` take."""

from miras_jax.convert.tables import clip, convnext, llama, miras, sam

KINDS = {
  "llama": llama.HF,  # and every other family of decoders
  "llama-tied": llama.HF_TIED,
  "clip": clip.HF,
  "clip-openai": clip.OPENAI,
  "convnext": convnext.OPENCLIP,
  "sam": sam.ORIGINAL,
  "sam-hf": sam.HF,
  "llava": miras.MIRAS,
  "llava-hf": miras.LLAVA_HF,
  "mini-gemini": miras.MIRAS,
  "lisa": miras.MIRAS,
  "miras": miras.MIRAS,
  "miras-training": miras.TRAINING,
  "deepspeed": miras.TRAINING,
  "peft": miras.PEFT,
}
