"""LLaVA, ShareGPT4V and ALLaVA in their published forms, every trap once."""

import io

from PIL import Image

from tests.input_pipeline.builders.in_memory import write_json, write_photo

SIZE = 8, 12


def said(*texts, first="human"):
  """{from, value} turns, from human and gpt in turn."""
  roles = ("human", "gpt") if first == "human" else ("gpt", "human")
  return [{"from": roles[k % 2], "value": text} for k, text in enumerate(texts)]


def item(image, *texts, id="000000033471"):
  entry = {"id": id, "image": image, "conversations": said(*texts)}
  return entry if image else {"id": id, "model": "", "conversations": said(*texts)}


def write_pictures(root, *names):
  for seed, name in enumerate(names):
    write_photo(root / name, *SIZE, seed=seed)


def write_gif(path):
  """Two frames, the first one red."""
  path.parent.mkdir(parents=True, exist_ok=True)
  frames = [Image.new("RGB", SIZE[::-1], colour) for colour in ("red", "blue")]
  stream = io.BytesIO()
  frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
  path.write_bytes(stream.getvalue())


def write_instruct(root):
  """Bare names; one id and one picture in two conversations; `<image>` at both ends."""
  write_pictures(
    root, "coco/train2017/000000033471.jpg", "coco/train2017/000000000009.jpg"
  )
  entries = [
    item("000000033471.jpg", "<image>\nWhat is on it?", "A dog.", "And?", "A cat."),
    item("000000000009.jpg", "Where is it?\n<image>", "At home.", id="000000000009"),
    item("000000033471.jpg", "Describe\n<image>\nit.", "It is <image> a dog.\n"),
  ]
  write_json(root / "llava_instruct_150k.json", entries)
  return entries


def write_mix(root):
  """Every folder of the mix, text alone, a GIF named .jpg, a picture of COCO in VG."""
  names = (
    "coco/train2017/000000000030.jpg",
    "vg/VG_100K/2345.jpg",
    "vg/VG_100K_2/61.jpg",
    "gqa/images/2345.jpg",
    "textvqa/train_images/011e7e629fb9ae7b.jpg",
  )
  write_pictures(root, *names)
  write_gif(root / "ocr_vqa/images/0061.jpg")
  question = "<image>\nWhat?"
  entries = [item(name, question, f"answer {i}") for i, name in enumerate(names)]
  entries.append(item("ocr_vqa/images/0061.jpg", question, "A book."))
  entries.append(item(None, "What is <image> in HTML?", "No tag.", id="wgByO4Y_0"))
  write_json(root / "llava_v1_5_mix665k.json", entries)
  write_json(root / "vg/image_data.json", [{"image_id": 2345, "coco_id": 139}])
  return entries


def write_sharegpt4v(root, name):
  """Pictures of COCO, SAM and a web page, and a text."""
  pictures = (
    "coco/train2017/000000000009.jpg",
    "sam/images/sa_545504.jpg",
    "wikiart/images/a-b_c.jpg",
    "share_textvqa/images/011e7e629fb9ae7b.jpg",
  )
  write_pictures(root / "data", *pictures)
  entries = [item(p, "Describe it.\n<image>", f"Caption of {p}") for p in pictures]
  entries.append(item(None, "Hello", "Hi."))
  write_json(root / name, entries)
  return root


def write_allava(root):
  """Caption and question of LAION about one picture; Vision-FLAN's odd names; text."""
  laion, vflan = "allava_laion/images/100.jpeg", "allava_vflan/images/images_191task_1k"
  coco = f"{vflan}/VQA+a_COCO_train2014_000000000009.jpg"
  write_pictures(root, laion, coco, f"{vflan}/ImageNet-C+4_1.png")
  more = {"original_caption": "x", "url": "https://example.org/100.jpeg"}
  for kind in ("Caption", "Instruct"):
    write_json(
      root / f"allava_laion/ALLaVA-{kind}-LAION-4V.json",
      [item(laion, f"<image>\n{kind}?", f"laion {kind}", id="allava_0") | more],
    )
    write_json(
      root / f"allava_vflan/ALLaVA-{kind}-VFLAN-4V.json",
      [
        item(coco, f"{kind}?\n<image>", f"vflan {kind}"),
        item(f"{vflan}/ImageNet-C+4_1.png", "<image>\nWhat?", f"net {kind}"),
      ],
    )
  text = {"idx": 0, "conversations": said("Write a poem.", "Roses are red.")}
  write_json(root / "allava_text/Evol-Instruct-GPT4-Turbo-143K.json", [text])
  return root
