"""ALLaVA-4V: captions and questions about pictures of LAION and Vision-FLAN."""

from input_pipeline.builders.builder import Card
from input_pipeline.builders.dialogue_lists import DialogueLists, Lists

_LAION = (
  "allava_laion/ALLaVA-Caption-LAION-4V.json",
  "allava_laion/ALLaVA-Instruct-LAION-4V.json",
)
_VFLAN = (
  "allava_vflan/ALLaVA-Caption-VFLAN-4V.json",
  "allava_vflan/ALLaVA-Instruct-VFLAN-4V.json",
)
_TEXT = ("allava_text/Evol-Instruct-GPT4-Turbo-143K.json",)
_LAYOUTS = {
  _LAION: """\
allava_laion/ALLaVA-Caption-LAION-4V.json  ALLaVA-Instruct-LAION-4V.json
allava_laion/images/*.jpeg
""",
  _VFLAN: """\
allava_vflan/ALLaVA-Caption-VFLAN-4V.json  ALLaVA-Instruct-VFLAN-4V.json
allava_vflan/images/images_191task_1k/*   png and jpg, names with "+"
                           (or vision-Flan/images_191task_1k/)
""",
  _TEXT: "allava_text/Evol-Instruct-GPT4-Turbo-143K.json   no pictures\n",
}
_FORM = "each a list of {id, image, conversations: one round}; text: {idx, ...}\n"


def _lists(name, title, parts, count):
  card = Card(
    name=name,
    version="1.0.0",
    title=title,
    description=(
      "Detailed captions, and a question with its answer, about pictures of LAION and"
      " Vision-FLAN, and instructions without pictures, written by a language model; no"
      " masks. Captions and questions share pictures. Names of Vision-FLAN tell which"
      " pictures are COCO's; they may be test pictures of RefCOCO, RefCOCO+, RefCOCOg."
    ),
    homepage="https://github.com/FreedomIntelligence/ALLaVA",
    citation="""\
@article{chen2024allava,
  title={{ALLaVA}: Harnessing {GPT4V}-synthesized data for lite vision-language models},
  author={Chen, Guiming Hardy and Chen, Shunian and Zhang, Ruifei and Chen, Junying and
    Wu, Xiangbo and Zhang, Zhiyi and Chen, Zhihong and Li, Jianquan and Wan, Xiang and
    Wang, Benyou},
  journal={arXiv:2402.11684},
  year={2024}
}""",
    licence="CC BY-NC 4.0 by the data card; the pictures belong to others",
    layout="".join(_LAYOUTS[part] for part in parts) + _FORM,
    published={"train": {"conversations": count}},
  )
  return Lists(card=card, files=sum(parts, ()))


class Allava(DialogueLists):
  """All of it, or one of its three parts."""

  known = {
    "all": _lists("allava", "ALLaVA-4V", (_LAION, _VFLAN, _TEXT), 1_559_793),
    "laion": _lists("allava_laion", "ALLaVA-4V, LAION", (_LAION,), 1_011_176),
    "vflan": _lists("allava_vflan", "ALLaVA-4V, Vision-FLAN", (_VFLAN,), 405_617),
    "text": _lists("allava_text", "ALLaVA-4V, text", (_TEXT,), 143_000),
  }

  def other_places(self, path: str) -> tuple[str, ...]:
    name = path.rsplit("/", 1)[-1]
    return (f"vision-Flan/images_191task_1k/{name}",)
