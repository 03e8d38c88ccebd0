"""What the report says about each metric and each control."""

# fmt: off
MEANING = {
  "ciou": "summed intersections over summed unions",
  "giou": "mean IoU of the targets; 1 where both masks are empty",
  "miou_no_empty": "mean IoU of the targets that are not empty",
  "precision_micro": "of all predicted pixels, the share that is right",
  "recall_micro": "of all target pixels, the share that is found",
  "f1_micro": "harmonic mean of the two, over pooled pixels",
  "precision_macro": "precision of each target, averaged",
  "recall_macro": "recall of each target, averaged",
  "f1_macro": "F1 of each target, averaged",
  "biou": "mean boundary IoU: only pixels near the outlines count",
  "biou_canny": "published form: exact overlap of Canny edges",
  "roi_accuracy": "mean recall, 0 for an empty target (published form)",
  "no_target_accuracy": "empty targets answered by an empty mask",
  "n_acc": "the same, under the name that gRefCOCO gives it",
  "t_acc": "targets that are there and get a mask, right or wrong (gRefCOCO)",
  "n_acc@50px": "n_acc where a mask of under 50 pixels counts as empty",
  "t_acc@50px": "t_acc where a mask of under 50 pixels counts as empty",
  "seg_rate": "answers that contain [SEG] when one is due",
  "seg_count_exact": "answers with exactly as many [SEG] as are due",
  "false_seg_rate": "answers that contain [SEG] though none is due",
  "surplus_seg": "[SEG] beyond those due, per answer",
  "bleu4": "n-gram precision of the answers (sacrebleu, 0 to 1)",
  "meteor": "words that match, also by stem, synonym and paraphrase (0 to 1)",
  "cider": "n-grams shared with the gold answers, rare ones count more (0 to 10)",
  "grounded_accuracy": "root of ROUGE-L times IoU: text and mask must both be right",
  "grounded_accuracy_exact": "the same; a text is right word by word, or not at all",
  "grounded_accuracy_name": "the same; a text is right if it names the target",
  "ece": "how far the predicted IoU is from the actual one (calibration error)",
  "rouge_l": "longest common subsequence with the gold answers (F)",
  "dist1": "distinct words over words",
  "dist2": "distinct word pairs over word pairs",
}
CONTROLS = {
  "swapped_conversation": "the user turns of another conversation about the image",
  "last_turn_only": "the last request alone, without the turns before it",
  "swapped_image": "the same conversation about another image",
  "attribute_lie": "a colour, side, height or size that the target has not is named",
  "absent_target": "it asks for something not in the picture: share of empty masks",
  "slot_swapped": "another object's mask in place of the one that is to be repeated",
  "history_shuffled": "the turns before the last request, in another order",
}
# fmt: on
HEADLINE = (
  "ciou",
  "giou",
  "p@0.5",
  "precision_micro",
  "recall_micro",
  "f1_micro",
  "seg_rate",
)  # fmt: skip


def meaning(name) -> str:
  """A sentence for a metric; nothing for one that is not known."""
  if name.startswith("p@"):
    return f"share of targets with an IoU of at least {name[2:]}"
  return MEANING.get(name, "")
