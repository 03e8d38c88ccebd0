"""What is said in the rendered conversations: sentences with slots, as plain data."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")

# fmt: off
OPENING = (
  "What do you see?", "Can you describe the picture?", "What is in this image?",
  "How many things are there?", "Tell me about this scene.",
)
OPENING_ANSWER = (
  "I see {n} things.", "There are {n} things in it.", "It shows {n} objects.",
  "The picture has {n} objects.",
)
FIRST_ASK = (
  "Are there any {noun}?", "I am looking at the {noun}.", "Do you see the {noun}?",
  "How many {noun} are there?", "Let us talk about the {noun}.",
  "Which of them are {noun}?", "I like the {noun}.",
)
NEXT_ASK = (
  "Which of those are {noun}?", "Of these, I mean the {noun}.",
  "Are some of them {noun}?", "Only the {noun} among them matter.",
  "How many of those are {noun}?", "And are there {noun} among these?",
)
ORDER_ASK = (
  "Which of those is the {word} one?", "I mean the {word} of these.",
  "Is one of them the {word} one?", "Among those, take the {word}.",
)
SHOW_GROUP = ("Please mark them all.", "Show them all to me.", "Outline all of these.")
GROUP_ANSWER = (
  "Here are the {n} {noun}: [SEG].", "I marked {n} {noun}: [SEG].",
  "These {n} {noun} are [SEG].",
)
ONE_ANSWER = (
  "Yes, there is one {noun}.", "There is just one {noun}.", "I see one {noun}.",
)
MANY_ANSWER = (
  "There are {n} {noun}.", "I see {n} {noun}.", "Yes, {n} {noun}.",
  "I count {n} {noun}.",
)
NO_ANSWER = ("There are no {noun}.", "I see no {noun}.", "None of them are {noun}.")
ORDER_ANSWER = (
  "Yes, I found the {word} one.", "The {word} one is clear.",
  "I know which one is the {word}.",
)
REQUEST = (
  "Use the above dialogue to produce a segmentation that backs up the answers.",
  "Please segment it.", "Segment that for me.", "Please show me the mask of it.",
  "Now outline it in the picture.", "Please mark what is left.",
)
NAME_REQUEST = (
  "Please segment the {noun}.", "Now mark the {noun}.", "Outline the {noun}.",
  "Show me the mask of the {noun}.",
)
WHICH = ("Which one do you mean?", "Please tell me which one.", "Of what?")
NARROW_REQUEST = (
  "Please segment the {noun} of those.", "Now mark the {noun} of them.",
  "Among these, outline the {noun}.", "Show me the mask of the {noun} of those.",
)
PART_REQUEST = (
  "Please segment only its {part}.", "Now mark just the {part} of it.",
  "I only want its {part}.", "Outline the {part} of that one.",
)
TWO_REQUEST = (
  "Of those, segment the {a} and the {b}.",
  "Please mark the {a} and also the {b} among them.",
  "Outline the {a} and then the {b} of these.",
)
MASK = (
  "Sure, it is [SEG].", "Here it is: [SEG].", "Certainly, [SEG].",
  "This is the segmentation: [SEG].", "Segmented as [SEG].",
)
PART_MASK = ("Here is the {part}: [SEG].", "Sure, its {part} is [SEG].")
TWO_MASK = (
  "The {a} is [SEG] and the {b} is [SEG].", "Here is the {a} [SEG] and the {b} [SEG].",
)
NONE_MASK = ("Nothing is left, so it is empty: [SEG].", "There is none: [SEG].")

PLURALS = {
  "circle": "circles", "square": "squares", "triangle": "triangles",
  "house": "houses", "tree": "trees", "car": "cars",
}
# fmt: on


def noun(fact, *, plural):
  """The noun phrase of a fact: "red things", "cars", "leftmost one"."""
  if fact.kind == "shape":
    return PLURALS[fact.word] if plural else fact.word
  if fact.kind == "order":
    return f"{fact.word} one"
  return f"{fact.word} " + ("things" if plural else "thing")


_ADJECTIVES = ("order", "size", "texture", "colour")


def phrase(facts):
  """The noun phrase of several facts together: "leftmost small red car"."""
  words = {fact.kind: fact.word for fact in facts}
  adjectives = [words[kind] for kind in _ADJECTIVES if kind in words]
  return " ".join([*adjectives, words.get("shape", "thing")])
