"""A server under load: many conversations at a time, and what each of them hears.

Starts `miras serve` and lets `--talks` clients converse with it at a time: each uploads
an image of the data, asks its questions turn by turn, and begins another conversation.
Then the same conversations are held one by one in this process and compared.

  miras bench serve --checkpoint=runs/quickstart --data=data/quickstart
  miras bench serve --checkpoint=runs/quickstart --data=data/quickstart \\
      --talks=20 --seconds=30

Targets: no error but 429, which clients honour; texts equal and masks within 0.1 % of
the pixels of those that Predictor gives; memory in the last quarter at most a tenth
above that in the second. Status 1 when one is missed.
"""

import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse

from input_pipeline import mask_ops
from input_pipeline.open_source import open_source
from miras_jax.errors import UserError
from miras_jax.evaluation.records import read_records
from miras_jax.inference.predictor import Predictor
from miras_jax.options import Parser

PIXELS = 1e-3  # share that may differ: another batch rounds in another order
GROWTH = 1.1
PAGE = os.sysconf("SC_PAGE_SIZE")
BOUNDARY = "miras-bench-part"


def main(argv):
  """`miras bench serve`; returns 1 when a target is missed."""
  parser = Parser(prog="miras bench serve", description=__doc__)
  add = parser.add_argument
  parser.add_path("--checkpoint", required=True)
  parser.add_path("--data", required=True, help="a data set with conversations")
  add("--split", default="val")
  add("--talks", type=int, default=200, help="conversations at a time (200)")
  add("--seconds", type=float, default=120.0, help="of load (120)")
  add("--records", type=int, default=50, help="different conversations (50)")
  add("--slots", type=int, default=8, help="of the server (8)")
  args = parser.parse_args(argv)
  if min(args.talks, args.seconds, args.records, args.slots) <= 0:
    raise UserError("--talks, --seconds, --records and --slots must be more than 0")
  source = open_source(args.data, args.split)
  records = read_records(source, args.records, shown=args.data)
  load = Load(records, args.seconds)
  with server(args) as (address, pid):
    load.run(address, pid, args.talks)
  load.report()
  differing = compare(load.heard, records, args.checkpoint)
  print(f"conversations compared with Predictor: {len(load.heard)}, "
        f"that differ: {differing}")  # fmt: skip
  return 1 if differing or load.failures or load.growth() > GROWTH else 0


@contextlib.contextmanager
def server(args):
  """((host, port), process id) of a server that runs."""
  command = [sys.executable, "-m", "miras_jax.serving", "--port=0"]
  command += [f"--checkpoint={args.checkpoint}", f"--slots={args.slots}"]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  try:
    ready = process.stdout.readline()
    if not ready.startswith("ready: "):
      raise UserError("the server did not start; its own line above says why")
    parts = urllib.parse.urlsplit(ready.split()[1])
    yield (parts.hostname, parts.port), process.pid
  finally:
    process.terminate()
    process.wait()


class Load:
  """Clients and what they found. heard: {number of a record: its turns}."""

  def __init__(self, records, seconds):
    self._records, self._seconds = records, seconds
    self.heard, self.seconds, self.memory, self.failures = {}, [], [], []
    self.refused = self._next = 0
    self._lock = threading.Lock()

  def run(self, address, pid, talks):
    self._address, self._end = address, time.monotonic() + self._seconds
    with concurrent.futures.ThreadPoolExecutor(talks) as pool:
      clients = [pool.submit(self._client) for _ in range(talks)]
      while time.monotonic() < self._end:
        pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
        self.memory.append(int(pages) * PAGE)
        time.sleep(0.5)
      for client in clients:
        client.result()

  def _client(self):
    while time.monotonic() < self._end:
      with self._lock:
        number = self._next % len(self._records.records)
        self._next += 1
      try:
        turns = self._converse(number)
      except (OSError, http.client.HTTPException, Failure) as error:
        self.failures.append(repr(error))
        continue
      if turns is None:
        return
      with self._lock:
        if self.heard.setdefault(number, turns) != turns:
          self.failures.append(f"record {number} was answered in two ways")

  def _converse(self, number):
    """[(text, [RLE of a mask])] of the turns; None where time was over before."""
    record = self._records.records[number]
    image = self._records.image_of(number)
    connection = http.client.HTTPConnection(*self._address, timeout=180)
    with contextlib.closing(connection):
      talk = self._ask(connection, "/v1/conversations", *form(image))
      if talk is None:
        return None
      path, turns = f"/v1/conversations/{talk['conversation']}", []
      for question in (text for role, text in record.turns if role == "user"):
        body = json.dumps({"text": question}).encode()
        started = time.monotonic()
        turn = self._ask(connection, f"{path}/say", body, "application/json")
        if turn is None:
          return None
        self.seconds.append(time.monotonic() - started)
        turns.append((turn["text"], [mask["rle"] for mask in turn["masks"]]))
      return turns

  def _ask(self, connection, path, body, kind):
    """The answer's JSON; comes again after 429, None where time is over."""
    while True:
      connection.request("POST", path, body, {"Content-Type": kind})
      answer = connection.getresponse()
      text = answer.read()
      if answer.status in (200, 201):
        return json.loads(text)
      if answer.status != 429:
        raise Failure(f"{answer.status}: {text[:200]}")
      self.refused += 1
      if time.monotonic() > self._end:
        return None
      time.sleep(min(5, int(answer.headers["Retry-After"])))

  def growth(self):
    """Memory of the last quarter over that of the second."""
    quarter = max(1, len(self.memory) // 4)
    late, early = self.memory[-quarter:], self.memory[quarter : 2 * quarter]
    return statistics.median(late) / statistics.median(early or late)

  def report(self):
    times = sorted(self.seconds) or [0.0]
    middle, slow = times[len(times) // 2], times[int(0.95 * len(times))]
    print(f"turns answered: {len(self.seconds)}, "
          f"{len(self.seconds) / self._seconds:.1f} a second")  # fmt: skip
    print(f"seconds to a whole turn: median {middle:.2f}, 95 % {slow:.2f}")
    print(f"refused for a while (429): {self.refused}, failed: {len(self.failures)}")
    for failure in self.failures[:5]:
      print(f"  {failure}")
    print(f"memory: {max(self.memory) / 2**20:,.0f} MB at most, last quarter over "
          f"second {self.growth():.3f}")  # fmt: skip


class Failure(Exception):
  """An answer that is none."""


def form(image) -> tuple[bytes, str]:
  """(body, content type) of a form with an image."""
  head = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="image"'
    "\r\n\r\n"
  )
  body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
  return body, f"multipart/form-data; boundary={BOUNDARY}"


def compare(heard, records, checkpoint) -> int:
  """How many conversations Predictor answers otherwise."""
  predictor = Predictor.load(checkpoint)
  differing = 0
  for number, turns in sorted(heard.items()):
    chat = predictor.start(records.image_of(number))
    questions = [t for role, t in records.records[number].turns if role == "user"]
    replies = [chat.say(question) for question in questions]
    differing += not all(map(same, turns, replies))
  return differing


def same(turn, reply) -> bool:
  """Whether a turn that was heard is the reply."""
  text, rles = turn
  if text != reply.text or len(rles) != len(reply.masks):
    return False
  pairs = zip(rles, reply.masks, strict=True)
  return all((mask_ops.decode_rle(r) != m.array).mean() <= PIXELS for r, m in pairs)
