"""The data cards of MUSE and MMR."""

from input_pipeline.builders.builder import Card

MUSE = Card(
  name="muse",
  version="1.0.0",
  title="MUSE: questions with several targets",
  description=(
    "Questions about pictures of COCO and LVIS; one [SEG] for each target, in the order"
    " of the answer. An answer whose `{seg}` are not as many as its targets is rejected"
    " by name; one without a text gets a plain sentence. A target is called by its"
    " rephrased name, one in ten by its class. The paper counts 246 thousand pairs of"
    " question and answer with 0.9 million masks. Pictures of the referring sets' test"
    " splits are among those of train."
  ),
  homepage="https://github.com/MaverickRen/PixelLM",
  citation="""\
@inproceedings{ren2023pixellm,
  title={PixelLM: Pixel Reasoning with Large Multimodal Model},
  author={Ren, Zhongwei and Huang, Zhicheng and Wei, Yunchao and Zhao, Yao and
    Fu, Dongmei and Feng, Jiashi and Jin, Xiaojie},
  booktitle={CVPR},
  year={2024},
  note={arXiv:2312.02228}
}
""",
  licence="none stated for the data (the repository is Apache-2.0)",
  layout="""\
SRC/muse/                         (or SRC itself)
  muse_train.json, muse_val.json, muse_test_less.json, muse_test_many.json
SRC/refer_seg/images/mscoco/images/   (or .../mscoco/, SRC/coco/, SRC/images/, SRC)
  train2014/COCO_train2014_<12 digits>.jpg   for items with `file_name`
  train2017/, val2017/<12 digits>.jpg        for items with `coco_url`
Without train2014 its pictures are taken from train2017, which holds the same.
""",
)
MMR = Card(
  name="mmr",
  version="1.0.0",
  title="MMR: objects and parts of several targets",
  description=(
    "Questions about objects and parts of PACO-LVIS; one [SEG] for each target, in the"
    " order of the answer. An answer whose `{seg}` are not as many as its targets is"
    " rejected by name. Question i belongs to answer i; the published loader mixes them"
    " up after sampling, which is not repeated here. The three test splits together"
    " have 32,077 pairs; all pictures are 57,643, those of PACO."
  ),
  homepage="https://github.com/jdg900/MMR",
  citation="""\
@inproceedings{jangmmr,
  title={MMR: A Large-scale Benchmark Dataset for Multi-target and Multi-granularity
    Reasoning Segmentation},
  author={Jang, Donggon and Cho, Yucheol and Lee, Suin and Kim, Taehyeon and
    Kim, Dae-Shik},
  booktitle={ICLR},
  year={2025}
}
""",
  licence="Apache-2.0",
  layout="""\
SRC/MMR/                          (or SRC/mmr/, SRC itself)
  MMR_train.json, MMR_val.json, MMR_test_{mixed,obj_only,part_only}.json
SRC/refer_seg/images/mscoco/images/   (or .../mscoco/, SRC/coco/, SRC/images/, SRC)
  train2017/, val2017/<12 digits>.jpg
""",
  published={
    "train": {"conversations": 154_127},
    "val": {"conversations": 8_194},
  },
)
