"""The JSON API: conversations, what answers hold, downloads, errors as one line."""

import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from input_pipeline import labelme, mask_ops
from tests.serving import helpers
from tests.serving.helpers import HEIGHT, WIDTH, png, say, start


@pytest.fixture
def client():
  with helpers.client() as client:
    yield client


def test_an_answer_has_text_and_masks_in_every_form(client):
  talk = start(client)
  turn = say(client, talk).json()
  left, top = turn["masks"]
  assert turn["text"] == "Sure, [OBJ]the cup[SEG] and [SEG]."
  assert left["words"] == "the cup" and left["box"] == [0, 0, WIDTH // 2, HEIGHT]
  array = mask_ops.decode_rle(left["rle"])
  assert array[:, : WIDTH // 2].all() and not array[:, WIDTH // 2 :].any()
  assert mask_ops.rasterise_polygons(left["polygons"], HEIGHT, WIDTH).tolist() == (
    array.tolist()
  )
  shown = Image.open(io.BytesIO(client.get(left["png"]).content))
  np.testing.assert_array_equal(np.asarray(shown), 255 * array)
  assert left["iou"] == 0.5 and left["area"] == array.sum() and top["number"] == 1


def test_an_image_may_come_in_json(client):
  for text in (helpers.base64_of(png()), helpers.uri(png())):
    answer = client.post("/v1/conversations", json={"image": text, "name": "b.png"})
    assert answer.status_code == 201
    assert answer.json()["image"] == {"name": "b.png", "height": 8, "width": 12}


def test_the_model_is_asked_with_all_that_was_said(client):
  talk = start(client)
  say(client, talk, "Where is it?")
  say(client, talk)
  asked = client.service.loaded.model.prompts[-1]
  assert asked.index("Where is it?") < asked.index("It is there.")
  assert asked.index("It is there.") < asked.index("which one")


def test_a_stream_grows_and_ends_with_the_turn(client):
  told = helpers.events(say(client, start(client), stream=True))
  texts = [data["text"] for kind, data in told if kind == "text"]
  assert len(texts) > 1 and all(b.startswith(a) for a, b in itertools.pairwise(texts))
  assert told[-1][0] == "turn" and len(told[-1][1]["masks"]) == 2


def test_history_undo_fork_reset_and_delete(client):
  talk = start(client)
  say(client, talk)
  say(client, talk, "Where is it?")
  forked = client.post(f"{talk}/fork").json()["conversation"]
  assert len(client.post(f"{talk}/undo").json()["turns"]) == 1
  assert client.post(f"{talk}/reset").json()["turns"] == []
  assert client.post(f"{talk}/undo").status_code == 409
  assert client.delete(talk).status_code == 204
  assert client.get(talk).status_code == 404
  turns = client.get(f"/v1/conversations/{forked}").json()["turns"]
  assert [turn["asked"]["text"] for turn in turns] == ["which one", "Where is it?"]
  assert client.get(turns[0]["masks"][0]["png"]).status_code == 200


def test_labelme_reads_its_download_back(client):
  talk = start(client)
  say(client, talk)
  document = client.get(f"{talk}/labelme.json").json()
  annotation = labelme.parse_annotation(document)
  assert [shape.label for shape in annotation.shapes] == ["the cup", "object"]
  mask = labelme.shape_mask(annotation.shapes[0], HEIGHT, WIDTH)
  assert mask[:, : WIDTH // 2].all() and not mask[:, WIDTH // 2 :].any()


def test_an_empty_mask_is_no_shape_of_labelme(client):
  talk = start(client)
  assert say(client, talk, "nothing").json()["masks"][0]["box"] is None
  assert client.get(f"{talk}/labelme.json").json()["shapes"] == []


def test_what_is_pointed_at_reaches_the_model(client):
  talk = start(client)
  say(client, talk, points=[[3, 4, True]], box=[1, 1, 5, 6], refers_to=None)
  hints = client.service.loaded.model.hints
  assert hints.keys() == {"points", "boxes"}
  say(client, talk, refers_to=0)
  by_number = client.service.loaded.model.hints["masks"]
  mask = np.zeros((HEIGHT, WIDTH), bool)
  mask[:, : WIDTH // 2] = True
  for form in (mask_ops.encode_rle(mask), helpers.uri(mask_png(mask)),
               {"size": [HEIGHT, WIDTH], "counts": [0, 48, 48]}):  # fmt: skip
    say(client, talk, mask=form)
    np.testing.assert_array_equal(client.service.loaded.model.hints["masks"], by_number)


def mask_png(mask):
  stream = io.BytesIO()
  Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "PNG")
  return stream.getvalue()


WRONG = {
  "empty text": ({"text": " "}, "text: empty"),
  "text too long for a message": ({"text": "a" * 8001}, "limit is 8,000"),
  "text too long for the model": ({"text": "which " * 900}, "max_len=192"),
  "half a character": ({"text": "\ud800"}, "text"),
  "no number": ({"text": "a", "refers_to": 3}, "the masks so far are none yet"),
  "a truth is no number": ({"text": "a", "refers_to": True}, "valid integer"),
  "a text is no number": ({"text": "a", "refers_to": "0"}, "valid integer"),
  "a point outside": ({"text": "a", "points": [[99, 0, True]]}, "outside of the image"),
  "too many points": ({"text": "a", "points": [[1, 1, True]] * 40}, "the limit is 16"),
  "a box turned round": ({"text": "a", "box": [5, 5, 1, 1]}, "x0 < x1"),
  "no finite number": ({"text": "a", "box": [0, 0, 1e999, 1]}, "box"),
  "a mask of another size": (
    {"text": "a", "mask": {"size": [2, 2], "counts": [0, 4]}}, "the image is (8, 12)"),
  "a mask without a pixel": (
    {"text": "a", "mask": {"size": [8, 12], "counts": [96]}}, "has no pixel"),
  "a mask of no base64": ({"text": "a", "mask": "%%"}, "not valid base64"),
  "a mask that is no image": ({"text": "a", "mask": "aGFsbG8="}, "mask: not an image"),
  "a field that is not known": ({"text": "a", "colour": 1}, "colour"),
  "a temperature below 0": ({"text": "a", "temperature": -1}, "temperature"),
}  # fmt: skip


@pytest.mark.parametrize("body,says", WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_one_line_and_the_talk_goes_on(client, body, says):
  talk = start(client)
  headers = {"content-type": "application/json"}
  answer = client.post(f"{talk}/say", content=json.dumps(body), headers=headers)
  error = answer.json()["error"]
  assert answer.status_code == 422 and says in error and "\n" not in error
  assert say(client, talk).status_code == 200
  assert len(client.get(talk).json()["turns"]) == 1


@pytest.mark.parametrize(
  "body, type, says",
  [
    (b'{"text": "a"}', "text/plain", "Content-Type: application/json"),
    (b'{"text": "a"}', "application/x-www-form-urlencoded", "Content-Type"),
    (b"{", "application/json", "not valid JSON: "),
    (b"[]", "application/json", "dictionary"),
  ],
)
def test_a_body_that_is_not_read_says_why(client, body, type, says):
  talk = start(client)
  answer = client.post(f"{talk}/say", content=body, headers={"content-type": type})
  assert answer.status_code == 422 and says in answer.json()["error"]


@pytest.mark.parametrize("path", ["/", "/health"])
def test_monitors_may_ask_for_the_head_alone(client, path):
  assert client.head(path).status_code == 200 and not client.head(path).content


BAD_IMAGES = {
  "empty": b"",
  "text": b"hello",
  "cut": png(64, 64)[:60],
  "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
}


@pytest.mark.parametrize("image", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_broken_image_is_one_line(client, image):
  answer = client.post("/v1/conversations", files={"image": ("a.png", image)})
  assert answer.status_code == 422 and "\n" not in answer.json()["error"]
  assert len(client.service.store) == 0


def test_an_image_of_too_many_pixels_is_not_decoded():
  with helpers.client(max_pixels=50) as client:
    answer = client.post("/v1/conversations", files={"image": ("a.png", png())})
    assert answer.status_code == 422 and "limit of 50 pixels" in answer.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_past_the_limit_is_refused(chunked):
  body = b"a" * (3 * 2**20)
  with helpers.client(upload_mb=1) as client:
    content = iter([body]) if chunked else body
    answer = client.post("/v1/conversations", content=content,
                         headers={"content-type": "application/json"})  # fmt: skip
    assert answer.status_code == 413 and "at most" in answer.json()["error"]


def test_a_request_without_an_image_says_what_is_wanted(client):
  assert "image" in client.post("/v1/conversations", data={"a": "b"}).json()["error"]
  assert "image" in client.post("/v1/conversations", json={}).json()["error"]


@pytest.mark.parametrize("path", ["", "/image.jpg", "/masks/0.png"])
def test_an_unknown_conversation_is_404(client, path):
  answer = client.get(f"/v1/conversations/x{path}")
  assert answer.status_code == 404 and "no such conversation" in answer.json()["error"]
  talk = start(client)
  assert client.get(f"{talk}/masks/0.png").status_code == 404
  assert client.get("/nowhere").json() == {"error": "Not Found"}


def test_control_tokens_that_a_user_types_are_letters(client):
  talk = start(client)
  before = len(client.service.loaded.model.tokens)
  say(client, talk, "[SEG] </s> <im_start>")
  ids = client.service.loaded.tokenizer.ids
  assert ids.seg not in client.service.loaded.model.tokens[before]


def test_the_page_forbids_what_is_not_its_own(client):
  answer = client.get("/", headers={"accept": "text/html"})
  assert "default-src 'self'" in answer.headers["content-security-policy"]
  assert answer.headers["x-content-type-options"] == "nosniff"


def test_openapi_describes_every_door(client):
  paths = client.get("/openapi.json").json()["paths"]
  assert {"/v1/conversations", "/v1/conversations/{id}/say", "/predict", "/v1/predict",
          "/api/generate", "/health", "/metrics"} <= paths.keys()  # fmt: skip


def test_metrics_count_requests_tokens_and_images(client):
  say(client, start(client))
  text = client.get("/metrics").text
  assert "miras_images_total 1.0" in text and "miras_conversations 1.0" in text
  route = 'route="/v1/conversations/{id}/say",status="200"'
  assert f"miras_requests_total{{{route}}} 1.0" in text
  assert "miras_tokens_total 0.0" not in text


def test_the_image_is_shown_as_the_model_sees_it(client):
  stream = io.BytesIO()
  picture = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
  exif = picture.getexif()
  exif[274] = 6  # a quarter turn
  picture.save(stream, "JPEG", exif=exif)
  talk = start(client, stream.getvalue())
  shown = Image.open(io.BytesIO(client.get(f"{talk}/image.jpg").content))
  assert shown.size == (HEIGHT, WIDTH)
  assert client.get(talk).json()["image"]["height"] == WIDTH
