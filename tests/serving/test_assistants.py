"""Annotation tools: requests as their clients send them, answers as they read them."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image

from input_pipeline.annotations import brush_rle
from miras_jax.serving.refusals import Busy
from tests.serving import helpers
from tests.serving.helpers import HEIGHT, WIDTH, base64_of, png, uri

CONFIG = """<View>
  <Image name="img" value="$image" zoom="true"/>
  <BrushLabels name="tag" toName="img" smart="true">
    <Label value="Saucer"/><Label value="The cup"/>
  </BrushLabels>
  <KeyPointLabels name="point" toName="img" smart="true"><Label value="The cup"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="img"/><TextArea name="ask" toName="img"/>
</View>"""
LEFT = np.arange(WIDTH) < WIDTH // 2


@pytest.fixture
def client():
  with helpers.client() as client:
    yield client


def asked_with(client):
  return client.service.loaded.model.prompts[-1]


def typed(text):
  return {"type": "textarea", "from_name": "ask", "value": {"text": [text]}}


def predict(client, *context, image=None, config=CONFIG, tasks=None):
  tasks = tasks or [{"id": 1, "data": {"image": image or uri(png())}}]
  body = {"tasks": tasks, "project": "7.1", "label_config": config, "params": {}}
  body["params"]["context"] = {"result": list(context)} if context else None
  return client.post("/predict", json=body)


def test_label_studio_gets_brush_strokes_of_its_labels(client):
  [answer] = predict(client, typed("which one")).json()["results"]
  first, second = answer["result"]
  assert first["value"]["brushlabels"] == ["The cup"]  # as the answer names it
  assert second["value"]["brushlabels"] == ["Saucer"]  # the first there is
  assert (first["from_name"], first["to_name"], first["type"]) == (
    "tag", "img", "brushlabels")  # fmt: skip
  assert (first["original_width"], first["original_height"]) == (WIDTH, HEIGHT)
  mask = brush_rle.decode(first["value"]["rle"], HEIGHT, WIDTH)
  assert mask.astype(bool).tolist() == [LEFT.tolist()] * HEIGHT
  assert answer["score"] == 0.5 and answer["model_version"].startswith("miras")


def test_label_studio_points_and_boxes_are_percent(client):
  point = {"type": "keypointlabels", "is_positive": False,
           "value": {"x": 50, "y": 25, "keypointlabels": ["The cup"]}}  # fmt: skip
  box = {"type": "rectanglelabels",
         "value": {"x": 0, "y": 50, "width": 100, "height": 60}}  # fmt: skip
  predict(client, point, box)
  hints = client.service.loaded.model.hints
  canvas = 16 / WIDTH  # the longest side fills the canvas of 16
  at, labels = hints["points"]
  np.testing.assert_allclose(at[0, 0, 0], [6 * canvas, 2 * canvas], atol=1)
  assert labels[0, 0, 0] == 0
  np.testing.assert_allclose(hints["boxes"][0, 0], [0, 4 * canvas, 16, 8 * canvas],
                             atol=1)  # fmt: skip
  assert "Segment the The cup." in asked_with(client)


def test_label_studio_polygons_where_there_are_no_brushes(client):
  config = CONFIG.replace("BrushLabels", "PolygonLabels")
  [answer] = predict(client, typed("which one"), config=config).json()["results"]
  value = answer["result"][0]["value"]
  assert max(x for x, _ in value["points"]) == pytest.approx(100 * 5 / WIDTH)
  assert value["polygonlabels"] == ["The cup"] and value["closed"]


def test_label_studio_of_many_tasks_one_may_fail(client):
  tasks = [{"data": {"image": uri(png())}}, {"data": {"image": "data:,x"}}, {}]
  answers = predict(client, typed("which one"), tasks=tasks).json()["results"]
  assert [len(answer["result"]) for answer in answers] == [2, 0, 0]
  assert "data:TYPE" in answers[1]["error"] and "no 'image'" in answers[2]["error"]


def test_label_studio_setup_health_and_webhook(client):
  assert client.get("/health").json()["status"] == "UP"
  assert client.get("/").json()["status"] == "UP"
  setup = client.post("/setup", json={"project": "1", "schema": CONFIG})
  assert "miras" in setup.json()["model_version"]
  assert client.post("/webhook", json={"action": "PROJECT_UPDATED"}).status_code == 201


@pytest.mark.parametrize("config", [
  "<View/>", "<View", "<!DOCTYPE x [<!ENTITY a 'b'>]><View>&a;</View>",
  "<View><BrushLabels name='a' toName='b'/></View>", "<a>" * 50_000,
])  # fmt: skip
def test_a_config_that_cannot_be_used_is_one_line(client, config):
  answer = predict(client, config=config)
  assert answer.status_code == 422 and "label_config" in answer.json()["error"]


@pytest.mark.parametrize("context", [
  [{"type": "keypointlabels", "value": {"x": "a", "y": 1}}],
  [{"type": "keypointlabels", "value": {}}],
  [{"type": "keypointlabels", "value": {"x": float("1e400"), "y": 1}}],
  [{"type": "rectanglelabels", "value": {"x": 1, "y": 1}}],
])  # fmt: skip
def test_a_context_that_makes_no_sense_is_one_line(client, context):
  body = {"tasks": [{"data": {"image": uri(png())}}], "label_config": CONFIG,
          "params": {"context": {"result": context}}}  # fmt: skip
  answer = client.post("/predict", content=json.dumps(body),
                       headers={"content-type": "application/json"})  # fmt: skip
  assert answer.status_code == 422 and "context" in answer.json()["error"]


class Elsewhere(BaseHTTPRequestHandler):
  """A host with a picture and a redirect to it; counts who came."""

  def do_GET(self):
    self.server.asked.append((self.path, self.headers.get("Authorization")))
    if self.path == "/moved":
      self.send_response(302)
      self.send_header("Location", "/a.png")
      self.end_headers()
      return
    self.send_response(200)
    self.end_headers()
    self.wfile.write(png())

  def log_message(self, *args):
    pass


@pytest.fixture
def elsewhere():
  server = HTTPServer(("127.0.0.1", 0), Elsewhere)
  server.asked = []
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield server
  server.shutdown()
  server.server_close()


def host_of(server):
  return f"127.0.0.1:{server.server_port}"


def test_an_address_is_fetched_from_allowed_hosts_alone(elsewhere):
  address = f"http://{host_of(elsewhere)}"
  with helpers.client() as client:
    answer = predict(client, image=f"{address}/a.png")
    assert answer.status_code == 422 and "--image_hosts" in answer.json()["error"]
  with helpers.client(image_hosts=(host_of(elsewhere),)) as client:
    for other in ("http://u@127.0.0.1/a", "file:///etc/passwd", "gopher://x",
                  f"http://{host_of(elsewhere)}@evil/a", "http://[x"):  # fmt: skip
      assert predict(client, image=other).status_code == 422
    assert elsewhere.asked == []
    assert predict(client, typed("which one"), image=f"{address}/a.png").is_success
    assert predict(client, image=f"{address}/moved").status_code == 422
  assert [path for path, _ in elsewhere.asked] == ["/a.png", "/moved"]


def test_the_token_goes_to_label_studio_alone(elsewhere, monkeypatch):
  monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
  hosts = {"label_studio_url": f"http://{host_of(elsewhere)}"}
  with helpers.client(**hosts) as client:
    assert predict(client, typed("which one"), image="/data/upload/1/a.png").is_success
  assert elsewhere.asked == [("/data/upload/1/a.png", "Token secret")]
  hosts = {"image_hosts": (host_of(elsewhere),)}
  with helpers.client(**hosts) as client:
    predict(client, image=f"http://{host_of(elsewhere)}/a.png")
  assert elsewhere.asked[1] == ("/a.png", None)


def test_files_of_label_studio_stay_in_their_folder(tmp_path):
  (tmp_path / "upload").mkdir()
  (tmp_path / "upload" / "a.png").write_bytes(png())
  (tmp_path.parent / "secret.png").write_bytes(png())
  with helpers.client(label_studio_files=str(tmp_path)) as client:
    assert predict(client, typed("which one"), image="/data/upload/a.png").is_success
    for path in ("/data/../../secret.png", "/data/%2e%2e/secret.png", "/data/a%00b",
                 "/data//etc/hosts", "/data/upload/b.png", "/etc/hosts"):  # fmt: skip
      answer = predict(client, image=path)
      assert answer.status_code == 422 and "image" in answer.json()["error"]


def test_label_studios_own_decoder_reads_the_brush():
  brush = pytest.importorskip(
    "label_studio_sdk.converter.brush", reason="needs label-studio-sdk"
  )
  for mask in masks():
    decoded = brush.decode_rle(brush_rle.encode(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(decoded[..., 3] > 0, mask)
    ours = brush_rle.decode(brush.mask2rle(mask.astype(np.uint8) * 255), *mask.shape)
    np.testing.assert_array_equal(ours > 0, mask)


def masks():
  rng = np.random.default_rng(0)
  yield np.zeros((3, 5), bool)
  yield np.ones((150, 150), bool)  # a run past the longest length
  yield np.ones((128, 128), bool)  # of just that length
  for share in (0.02, 0.5, 0.98):
    yield rng.random((37, 23)) < share


def test_the_brush_is_read_back():
  for mask in masks():
    decoded = brush_rle.decode(brush_rle.encode(mask), *mask.shape)
    np.testing.assert_array_equal(decoded > 0, mask)


def test_the_bytes_of_a_brush():
  # 8 values, words of 8 bits, sizes 4 8 12 16; then two runs of four, 255 and 0.
  bits = f"{8:032b}" + f"{7:05b}" + "0011" + "0111" + "1011" + "1111"
  bits += "1" + "00" + "0011" + "11111111" + "1" + "00" + "0011" + "00000000"
  padded = bits + "0" * (-len(bits) % 8)
  expected = [int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)]
  assert brush_rle.encode(np.array([[True, False]])) == expected


def x_predict(client, **params):
  body = {"model": "miras", "image": uri(png()), "params": params}
  return client.post("/v1/predict", json=body, headers={"Token": ""})


def test_x_anylabeling_lists_the_model(client):
  answer = client.get("/v1/models").json()
  model = answer["data"]["miras"]
  assert answer["success"] and model["display_name"] == "miras"
  assert {"name": "edit_text", "value": None} in model["widgets"]
  assert model["batch_processing_mode"] == "text_prompt"


def test_x_anylabeling_gets_polygons_and_the_answer(client):
  marks = [{"type": "point", "data": [3, 4], "label": 1},
           {"type": "rectangle", "data": [0, 0, 6, 8], "label": 1}]  # fmt: skip
  answer = x_predict(client, text_prompt="which one", marks=marks, epsilon_factor=0.001)
  data = answer.json()["data"]
  assert data["description"] == "Sure, [OBJ]the cup[SEG] and [SEG]."
  cup, other = data["shapes"]
  assert (cup["label"], other["label"]) == ("the cup", "which one")
  assert cup["shape_type"] == "polygon" and cup["score"] == 0.5
  assert sorted(map(tuple, cup["points"][:-1])) == [(0, 0), (0, 7), (5, 0), (5, 7)]
  assert cup["points"][0] == cup["points"][-1]
  assert client.service.loaded.model.hints.keys() == {"points", "boxes"}


def test_x_anylabeling_leaves_out_what_scores_too_low(client):
  answer = x_predict(client, text_prompt="which one", conf_threshold=0.6)
  assert answer.json()["data"]["shapes"] == []


@pytest.mark.parametrize("params", [
  {"marks": [{"type": "point", "data": [1]}]}, {"marks": 7},
  {"marks": [{"type": "rectangle", "data": [1, "a", 2, 3]}]},
  {"marks": [{"type": "point", "data": [99, 99]}]}, {"text_prompt": "a" * 9000},
])  # fmt: skip
def test_x_anylabeling_hears_what_is_wrong(client, params):
  answer = x_predict(client, **params)
  assert answer.status_code == 200 and answer.json()["success"] is False
  assert answer.json()["error"]["message"]


def test_x_anylabeling_gets_503_for_a_full_queue(client):
  client.service.engine.submit = full
  answer = x_predict(client, text_prompt="which one")
  assert answer.status_code == 503 and "queue is full" in answer.json()["detail"]


def full(question):
  raise Busy(3)


def generate(client, **prompt):
  body = {"model": "sam:latest", "image": base64_of(png()), "prompt": prompt}
  return client.post("/api/generate", json=body)


def test_osam_gets_crops_in_their_boxes(client):
  answer = generate(client, texts=["which one"], points=[[1, 1], [5, 6], [3, 3]],
                    point_labels=[2, 3, 0]).json()  # fmt: skip
  cup, other = answer["annotations"]
  assert answer["model"] == "sam:latest" and cup["text"] == "the cup"
  assert cup["bounding_box"] == {"xmin": 0, "ymin": 0, "xmax": 5, "ymax": 7}
  crop = Image.open(io.BytesIO(base64.b64decode(cup["mask"])))
  assert crop.size == (6, 8) and np.asarray(crop).min() == 255
  assert other["text"] == "which one"
  assert client.service.loaded.model.hints.keys() == {"points", "boxes"}


def test_osams_own_types_take_the_annotations(client):
  types = pytest.importorskip("osam.types", reason="needs osam")
  prompt = types.Prompt(points=[[1, 1], [5, 6]], point_labels=[2, 3])
  annotations = generate(client, **prompt.model_dump(exclude_none=True)).json()
  for found in annotations["annotations"]:
    crop = Image.open(io.BytesIO(base64.b64decode(found.pop("mask"))))
    types.Annotation(**found, mask=np.asarray(crop) > 0)


@pytest.mark.parametrize("prompt", [
  {"points": [[1, 1]], "point_labels": []}, {"points": [[1, 1]], "point_labels": [2]},
  {"points": [[1, 1]], "point_labels": [9]}, {"points": [[1, 99]], "point_labels": [1]},
])  # fmt: skip
def test_osam_hears_what_is_wrong(client, prompt):
  answer = generate(client, **prompt)
  assert answer.status_code == 422 and answer.json()["error"]


def test_the_next_click_on_a_picture_encodes_nothing(client):
  for x in range(3):
    generate(client, points=[[x, 1]], point_labels=[1])
  predict(client)
  assert "miras_images_total 1.0" in client.get("/metrics").text
  assert len(client.service.store) == 0
