"""LLaVA's instruction data: 150,000 dialogues about COCO, and the mix of 665,000."""

from input_pipeline.builders.builder import Card
from input_pipeline.builders.dialogue_lists import DialogueLists, Lists

_LICENCE = "CC BY 4.0, and the terms of the service that wrote the texts"
_CITATION = """\
@inproceedings{liu2023llava,
  title={Visual instruction tuning},
  author={Liu, Haotian and Li, Chunyuan and Wu, Qingyang and Lee, Yong Jae},
  booktitle={NeurIPS},
  year={2023}
}"""
_MIX_CITATION = """
@inproceedings{liu2023improvedllava,
  title={Improved baselines with visual instruction tuning},
  author={Liu, Haotian and Li, Chunyuan and Li, Yuheng and Lee, Yong Jae},
  booktitle={CVPR},
  year={2024}
}"""

INSTRUCT = Card(
  name="llava_instruct_150k",
  version="1.0.0",
  title="LLaVA-Instruct-150k",
  description=(
    "Conversations, detailed descriptions and reasoning about pictures of COCO, written"
    " by a language model from captions and boxes; no masks. The pictures are of COCO"
    " train2017, so they may be test pictures of RefCOCO, RefCOCO+ and RefCOCOg."
  ),
  homepage="https://github.com/haotian-liu/LLaVA",
  citation=_CITATION,
  licence=_LICENCE,
  layout="""\
llava_instruct_150k.json   list of {id, image, conversations: [{from, value}]}; ids
                           repeat, `image` is a bare name: <12 digits>.jpg
coco/train2017/000000033471.jpg ...   (or train2017/)
""",
  published={"train": {"conversations": 157_712}},
)
MIX = Card(
  name="llava_mix665k",
  version="1.0.0",
  title="LLaVA-1.5 mix of 665k",
  description=(
    "Dialogues about pictures of COCO, Visual Genome, GQA, OCR-VQA and TextVQA, and"
    " 40,688 without a picture; no masks. Some hold boxes as text, in parts of the"
    " picture padded to a square. With vg/image_data.json pictures of Visual Genome"
    " that are COCO's get COCO's ids. The pictures hold test pictures of RefCOCO,"
    " RefCOCO+ and RefCOCOg."
  ),
  homepage="https://github.com/haotian-liu/LLaVA",
  citation=_CITATION + _MIX_CITATION,
  licence=_LICENCE,
  layout="""\
llava_v1_5_mix665k.json    list of {id, image?, conversations}; ids repeat
coco/train2017/  vg/VG_100K/  vg/VG_100K_2/  gqa/images/  textvqa/train_images/
ocr_vqa/images/            all named .jpg, GIFs among them; about 355 are missing
vg/image_data.json         (optional) of Visual Genome
(pictures also below data/ or playground/data/)
""",
  published={"train": {"conversations": 665_298}},
)


class Llava(DialogueLists):
  """Lists of LLaVA; a bare name of a picture is COCO train2017's."""

  known = {
    "instruct": Lists(card=INSTRUCT, files=("llava_instruct_150k.json",)),
    "mix": Lists(card=MIX, files=("llava_v1_5_mix665k.json",)),
  }

  def picture_path(self, stated: str) -> str:
    return stated if "/" in stated else f"coco/train2017/{stated}"

  def other_places(self, path: str) -> tuple[str, ...]:
    return (path.removeprefix("coco/"),)
