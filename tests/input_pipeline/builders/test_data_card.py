"""The data card of a build says what it counted, and what only people know."""

from input_pipeline.builders import data_card
from input_pipeline.builders.builder import Card

COUNTS = {
  "images": 7, "conversations": 1200, "targets": 9, "empty_targets": 1, "rejected": 2,
  "fingerprint": "abc", "files_fingerprint": "def",
}  # fmt: skip
CARD = Card(
  name="mine",
  version="1.0.0",
  title="Mine",
  description="Cups.",
  homepage="https://example.org",
  citation="@misc{mine}",
  licence="CC BY | 4.0",
  layout="",
  published={"train": {"conversations": 1234}},
)


def text(options=None):
  settings = {"src": "/home/me/raw", "options": options or {}, "splits": ["train"]}
  return data_card.text(CARD, settings, {"train": COUNTS})


def test_counts_stand_beside_the_published_ones():
  assert "| train | 7 | 1,200 (1,234) | 9 | 1 | 2 |" in text()


def test_licence_citation_and_build_are_named():
  card = text()
  assert r"| licence of the source | CC BY \| 4.0 |" in card
  assert "@misc{mine}" in card and "| train | `abc` | `def` |" in card


def test_what_nobody_said_is_left_to_people():
  assert (
    f"| people in the pictures: consent, faces, plates | {data_card.FILL} |" in text()
  )


def test_options_are_named_without_the_folders_of_the_machine():
  card = text({"views": 6, "wordings": "/home/me/de.json"})
  assert "`--views=6`, `--wordings=de.json`" in card and "/home/me" not in card
