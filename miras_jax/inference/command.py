"""Talks about one image in the terminal; masks are written as PNG.

  miras chat --checkpoint=runs/first --image=photo.jpg
  printf 'What is there?\\nSegment the red one.\\n' | \\
      miras chat --checkpoint=runs/first --image=photo.jpg --out=masks

  miras chat --demo                  # the small model and a picture that come along

A model with a state sees its earlier masks, and "object 2" names the second of them.
Every turn is remembered, so "segment that one" works. For each [SEG] in an answer
OUT/turn_02_mask_1.png (white inside, black outside) and for the answer
OUT/turn_02_overlay.png are written and named on the screen; what an earlier chat has
left there stays. Ctrl-C gives up an answer.

/reset       forget the turns, keep the image
/image FILE  go on with another image, without the turns
/mask FILE   take a mask as an earlier one: PNG, labelme's JSON, COCO annotation or RLE
/help        show this list
/quit        leave; so does the end of the input
"""

import pathlib
import sys

from miras_jax.errors import UserError
from miras_jax.inference import demo, devices
from miras_jax.inference.chat import Chat, last_turn
from miras_jax.inference.predictor import read_image
from miras_jax.options import Parser


def main(argv):
  """`miras chat ...`; see the module's head."""
  parser = Parser(prog="miras chat", description=__doc__)
  add = parser.add_argument
  parser.add_place("--checkpoint", help="a --workdir of `miras train`, or one step")
  parser.add_input("--image", help="PNG, JPEG, WebP, BMP or TIFF file")
  add("--demo", action="store_true", help="the model and the picture that come along")
  parser.add_output(
    "--out", default="masks", help="folder for masks and overlays (masks)"
  )
  add("--max_new_tokens", type=int, default=128, help="longest answer (128)")
  devices.add_options(parser)
  args = parser.parse_args(argv)
  if args.demo:
    args = demo.fill(args)
  for name in ("checkpoint", "image"):
    if not getattr(args, name):
      raise UserError(f"--{name} is missing; `miras chat --demo` needs neither")
  if args.max_new_tokens < 1:
    raise UserError(f"--max_new_tokens={args.max_new_tokens} must be at least 1")
  image = read_image(args.image)
  last_turn(args.out)  # tells what is wrong with --out before anything is loaded
  print(f"loading {args.checkpoint}; the first answer compiles", file=sys.stderr)
  loaded = devices.load(args)
  generator = loaded.generator(args.max_new_tokens)
  if args.demo and sys.stdin.isatty():
    print(demo.HINT)
  chat = Chat(loaded, generator, args.image, image, pathlib.Path(args.out))
  return chat.run(sys.stdin)
