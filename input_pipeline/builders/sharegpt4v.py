"""ShareGPT4V: detailed captions, and a mix of dialogues with such captions in it."""

from input_pipeline.builders.builder import Card
from input_pipeline.builders.dialogue_lists import DialogueLists, Lists

_CITATION = """\
@inproceedings{chen2023sharegpt4v,
  title={{ShareGPT4V}: Improving large multi-modal models with better captions},
  author={Chen, Lin and Li, Jinsong and Dong, Xiaoyi and Zhang, Pan and He, Conghui and
    Wang, Jiaqi and Zhao, Feng and Lin, Dahua},
  booktitle={ECCV},
  year={2024}
}"""
_LAYOUT = """\
{file}
                           list of {{id, image?, conversations}}; text-only items too
coco/train2017/  sam/images/sa_*.jpg  llava/llava_pretrain/images/  gqa/images/
ocr_vqa/images/  textvqa/train_images/  vg/VG_100K/  vg/VG_100K_2/
share_textvqa/images/  web-celebrity/images/  web-landmark/images/  wikiart/images/
vg/image_data.json         (optional) of Visual Genome
(pictures also below data/; the mix needs only 9,000 pictures of SAM)
"""
_DESCRIPTION = (
  " No masks. MIRAS trains on those of the mix about pictures of COCO and SAM:"
  " --prefixes=coco/train2017/,sam/images/. The pictures hold test pictures of"
  " RefCOCO, RefCOCO+ and RefCOCOg."
)


def _lists(name, file, title, description, count):
  card = Card(
    name=name,
    version="1.0.0",
    title=title,
    description=description + _DESCRIPTION,
    homepage="https://github.com/ShareGPT4Omni/ShareGPT4V",
    citation=_CITATION,
    licence="CC BY-NC 4.0 by the data card; the repository states none",
    layout=_LAYOUT.format(file=file),
    published={"train": {"conversations": count}},
  )
  return Lists(card=card, files=(file,))


class ShareGpt4v(DialogueLists):
  """Three lists in LLaVA's form. Published counts are in thousands."""

  known = {
    "captions": _lists(
      "sharegpt4v",
      "sharegpt4v_instruct_gpt4-vision_cap100k.json",
      "ShareGPT4V, 102k captions",
      "Detailed captions that a language model wrote of what it saw.",
      102_000,
    ),
    "captioner": _lists(
      "sharegpt4v_pt",
      "share-captioner_coco_lcs_sam_1246k_1107.json",
      "ShareGPT4V-PT, 1,246k captions",
      "Detailed captions by a captioner that was trained on ShareGPT4V.",
      1_246_000,
    ),
    "mix": _lists(
      "sharegpt4v_mix665k",
      "sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json",
      "ShareGPT4V, mix of 665k",
      "LLaVA's mix of dialogues with 23,000 detailed captions in it.",
      665_000,
    ),
  }
