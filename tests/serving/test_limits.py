"""Too many, too slow, too large: what a server does at its limits."""

import concurrent.futures
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tests.serving import helpers
from tests.serving.helpers import png, say, start


class Gate:
  """A script that answers when it is opened."""

  def __init__(self):
    self._open, self.asked = threading.Event(), threading.Event()

  def __call__(self, prompt, image):
    self.asked.set()
    self._open.wait(15)
    return helpers.script(prompt, image)

  def open(self):
    self._open.set()


@pytest.fixture
def gate():
  gate = Gate()
  yield gate
  gate.open()


def in_threads(count, work):
  with concurrent.futures.ThreadPoolExecutor(count) as pool:
    return list(pool.map(work, range(count)))


def wait_until(true):
  for _ in range(500):
    if true():
      return
    time.sleep(0.01)
  raise TimeoutError


def test_a_full_queue_is_429_and_says_when_to_come_again(gate):
  with helpers.client(gate, slots=1, queue=2) as client:
    talks = [start(client) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
      asked = [pool.submit(say, client, talks[0])]
      assert gate.asked.wait(10)  # the device is busy; others wait
      for talk in talks[1:3]:
        asked.append(pool.submit(say, client, talk))
      wait_until(lambda: client.service.engine.waiting == 2)
      assert "miras_queue 2.0" in client.get("/metrics").text
      refused = say(client, talks[3])
      gate.open()
      answers = [answer.result().status_code for answer in asked]
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert "queue is full" in refused.json()["error"] and answers == [200, 200, 200]
    assert say(client, talks[3]).status_code == 200


def test_one_answer_at_a_time_for_a_conversation(gate):
  with helpers.client(gate) as client:
    talk = start(client)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      first = pool.submit(say, client, talk)
      assert gate.asked.wait(10)
      undone = client.post(f"{talk}/undo")
      for answer in (say(client, talk), undone, client.delete(talk)):
        assert answer.status_code == 409 and "answering" in answer.json()["error"]
      gate.open()
      assert first.result().status_code == 200


def test_a_question_that_waits_too_long_is_504(gate):
  with helpers.client(gate, slots=1, timeout=0.3) as client:
    talks = [start(client), start(client)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      first = pool.submit(say, client, talks[0])
      assert gate.asked.wait(10)
      second = pool.submit(say, client, talks[1])
      wait_until(lambda: client.service.engine.waiting == 1)
      time.sleep(0.4)
      gate.open()
      late = [first.result(), second.result()]
    assert [answer.status_code for answer in late] == [504, 504]
    assert "no answer within 0.3 s" in late[1].json()["error"]
    assert client.get(talks[1]).json()["turns"] == []
    assert say(client, talks[1]).status_code == 200


def test_many_conversations_on_few_rows_get_their_own_answers():
  def script(prompt, image):
    return f"level {int(image[0, 0, 0])}", ["left"]

  def converse(k):
    talk = start(client, png(color=k))
    turns = [say(client, talk, f"which one {n}").json() for n in range(3)]
    return [turn["text"] for turn in turns]

  with helpers.client(script, slots=3) as client:
    answers = in_threads(20, converse)
  assert answers == [[f"level {k}"] * 3 for k in range(20)]


def test_the_quietest_conversation_is_forgotten_first():
  with helpers.client(conversations=3) as client:
    talks = [start(client) for _ in range(3)]
    client.get(talks[0])
    start(client)
    found = [client.get(talk).status_code for talk in talks]
  assert found == [200, 404, 200]


def test_conversations_past_the_memory_are_forgotten():
  with helpers.client(memory_mb=1) as client:
    noise = png_of_noise(500_000)
    talks = [start(client, noise) for _ in range(3)]
    assert [client.get(talk).status_code for talk in talks] == [404, 200, 200]


def png_of_noise(size):
  side = int((size / 3) ** 0.5)
  pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, "PNG")
  return stream.getvalue()


def test_a_conversation_has_an_end():
  with helpers.client(max_turns=2) as client:
    talk = start(client)
    codes = [say(client, talk).status_code for _ in range(3)]
    assert codes == [200, 200, 422]
    client.post(f"{talk}/undo")
    assert say(client, talk).status_code == 200


def test_a_server_that_stops_refuses_what_waits(gate):
  with helpers.client(gate, slots=1) as client:
    talks = [start(client), start(client)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      asked = [pool.submit(say, client, talks[0])]
      assert gate.asked.wait(10)
      asked.append(pool.submit(say, client, talks[1]))
      wait_until(lambda: client.service.engine.waiting == 1)
      threading.Timer(0.1, gate.open).start()
      client.service.engine.close()
      codes = [answer.result().status_code for answer in asked]
  assert set(codes) <= {200, 500} and codes[1] == 500
