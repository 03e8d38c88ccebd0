"""The data cards of RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO."""

from input_pipeline.builders.builder import Card

_LAYOUT = """\
SRC/refer_seg/                     (or SRC itself)
  {folder}/{refs}
                                   the expressions; the same list as .json is read, too
  {folder}/instances.json          COCO's form: images, annotations, categories
  {pictures}
"""
_COCO = (
  "images/mscoco/images/train2014/COCO_train2014_<12 digits>.jpg\n"
  "                                   also without the second images/, or train2014/"
)
_SAIAPR = "images/saiapr_tc-12/<2 digits>/images/<image_id>.jpg"
_TRAPS = """\
`file_name` of an expression is no file: pictures are found by `image_id`. `split` of an
expression may name several splits (testAB); such a record is in each of them.
"""
_LICENCE = (
  "none stated for the expressions (the code is Apache-2.0); the pictures are their"
  " photographers' (Flickr)"
)
_SAIAPR_LICENCE = (
  "none stated for the expressions (the code is Apache-2.0); the pictures are SAIAPR"
  " TC-12's, said to be free for research"
)
_REFERIT = """\
@inproceedings{kazemzadeh2014referitgame,
  title={ReferItGame: Referring to Objects in Photographs of Natural Scenes},
  author={Kazemzadeh, Sahar and Ordonez, Vicente and Matten, Mark and Berg, Tamara},
  booktitle={EMNLP},
  year={2014}
}
"""
_YU = """\
@inproceedings{yu2016modeling,
  title={Modeling Context in Referring Expressions},
  author={Yu, Licheng and Poirson, Patrick and Yang, Shan and Berg, Alexander C and
    Berg, Tamara L},
  booktitle={ECCV},
  year={2016}
}
"""
_MAO = """\
@inproceedings{mao2016generation,
  title={Generation and Comprehension of Unambiguous Object Descriptions},
  author={Mao, Junhua and Huang, Jonathan and Toshev, Alexander and Camburu, Oana and
    Yuille, Alan L and Murphy, Kevin},
  booktitle={CVPR},
  year={2016}
}
"""
_NAGARAJA = """\
@inproceedings{nagaraja2016modeling,
  title={Modeling Context Between Objects for Referring Expression Understanding},
  author={Nagaraja, Varun K and Morariu, Vlad I and Davis, Larry S},
  booktitle={ECCV},
  year={2016}
}
"""
_GRES = """\
@inproceedings{liu2023gres,
  title={GRES: Generalized Referring Expression Segmentation},
  author={Liu, Chang and Ding, Henghui and Jiang, Xudong},
  booktitle={CVPR},
  year={2023}
}
@article{he2023grec,
  title={GREC: Generalized Referring Expression Comprehension},
  author={He, Shuting and Ding, Henghui and Liu, Chang and Jiang, Xudong},
  journal={arXiv:2308.16182},
  year={2023}
}
"""
_TITLES = {
  "refcoco": "RefCOCO",
  "refcoco+": "RefCOCO+",
  "refcocog": "RefCOCOg",
  "refclef": "RefCLEF (ReferItGame)",
}
_ABOUT = {
  "refcoco": "Players of a game named one object so that another could click on it.",
  "refcoco+": "As RefCOCO, with words of place forbidden.",
  "refcocog": "Longer expressions, written without a game.",
  "refclef": "Expressions for regions of SAIAPR TC-12's photographs of travels.",
}
_CITED = {
  "refcoco": _REFERIT + _YU,
  "refcoco+": _REFERIT + _YU,
  "refcocog": _MAO + _NAGARAJA,
  "refclef": _REFERIT,
}
_LEAKS = (
  " Every picture, of val and test too, is in COCO train2014 and train2017; RefCOCO,"
  " RefCOCO+ and RefCOCOg split overlapping pictures differently."
)
_BY_OBJECT = " This split is by object: one picture may be in train and in val."


def _counts(objects, images, expressions):
  """{split: counts}; tuples follow the splits, None is not published."""
  columns = {"objects": objects, "images": images, "conversations": expressions}
  splits = ("train", "val", *(("testA", "testB") if len(objects) == 4 else ("test",)))
  return {
    split: {
      name: column[i]
      for name, column in columns.items()
      if i < len(column) and column[i] is not None
    }
    for i, split in enumerate(splits)
  }


# fmt: off
_PUBLISHED = {
  ("refcoco", "unc"): _counts(
    (42_404, 3_811, 1_975, 1_810), (16_994, 1_500, 750, 750),
    (120_624, 10_834, 5_657, 5_095)),
  ("refcoco", "google"): _counts(
    (40_000, 5_000, 5_000), (19_213, 4_559, 4_527), ()),
  ("refcoco+", "unc"): _counts(
    (42_278, 3_805, 1_975, 1_798), (16_992, 1_500, 750, 750),
    (120_191, 10_758, 5_726, 4_889)),
  ("refcocog", "umd"): _counts(
    (42_226, 2_573, 5_023), (21_899, 1_300, 2_600), (80_512, 4_896, 9_602)),
  ("refcocog", "google"): _counts(
    (44_822, 5_000), (24_698, 4_650), (85_474, 9_536)),
  ("refclef", "berkeley"): _counts((None,) * 3, (), (54_127, 5_842, 60_103)),
  ("refclef", "unc"): {},
}
# fmt: on


def _name(dataset, split_by):
  """TFDS allows no "+"; the usual way to split goes without saying."""
  name = dataset.replace("+", "_plus")
  return name if split_by in ("unc", "umd") else f"{name}_{split_by}"


def refer_card(dataset: str, split_by: str) -> Card:
  """The card of one of the four sets in one of its ways to split."""
  of_coco = dataset != "refclef"
  by_object = (dataset, split_by) in {("refcoco", "google"), ("refcocog", "google")}
  pictures = _COCO if of_coco else _SAIAPR
  layout = _LAYOUT.format(folder=dataset, refs=f"refs({split_by}).p", pictures=pictures)
  return Card(
    name=_name(dataset, split_by),
    version="1.0.0",
    title=f"{_TITLES[dataset]}, split {split_by}",
    description=(
      f"{_ABOUT[dataset]} One conversation for each sentence of an expression: the"
      " sentence is asked for, the mask of its object answers; an object without a"
      " segmentation has an empty mask, as in the published loaders."
      + (_LEAKS if of_coco else "")
      + (_BY_OBJECT if by_object else "")
    ),
    homepage="https://github.com/lichengunc/refer",
    citation=_CITED[dataset],
    licence=_LICENCE if of_coco else _SAIAPR_LICENCE,
    layout=layout + _TRAPS,
    published=_PUBLISHED[dataset, split_by],
  )


GREFCOCO = Card(
  name="grefcoco",
  version="1.0.0",
  title="gRefCOCO",
  description=(
    "Expressions for one object, several, or none of those in the picture. The union of"
    " the objects is the mask, as published (`targets=each`: one mask an object, named"
    " by its class); without an object the mask is empty. Crowd annotations are left"
    " out of a union, as by the official loader. The paper counts 278,232 expressions,"
    " the released file holds 259,859; files from before 2023-08-29 lack testA and"
    " testB." + _LEAKS
  ),
  homepage="https://github.com/henghuiding/gRefCOCO",
  citation=_GRES,
  licence="none stated for the data (the code of ReLA is MIT)",
  layout=_LAYOUT.format(folder="grefcoco", refs="grefs(unc).json", pictures=_COCO)
  + "`ann_id` and `category_id` are lists or one number; [-1] means no object.\n",
)
