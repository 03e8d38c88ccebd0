"""What a server counts, in Prometheus' text form."""

import prometheus_client as prometheus

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
  """Of one server; a registry of its own, so that tests may have several."""

  def __init__(self):
    registry = self._registry = prometheus.CollectorRegistry()
    self.requests = prometheus.Counter(
      "miras_requests", "Requests answered", ("route", "status"), registry=registry
    )
    self.latency = prometheus.Histogram(
      "miras_request_seconds", "Until the response is complete", ("route",),
      buckets=SECONDS, registry=registry,
    )  # fmt: skip
    self.first_token = prometheus.Histogram(
      "miras_first_token_seconds", "From the question to the first tokens",
      buckets=SECONDS, registry=registry,
    )  # fmt: skip
    self.tokens = prometheus.Counter(
      "miras_tokens", "Tokens of answers", registry=registry
    )
    self.images = prometheus.Counter(
      "miras_images", "Images encoded", registry=registry
    )
    self._gauge = lambda *names: prometheus.Gauge(*names, registry=registry)

  def watch(self, engine, store):
    """Reads these when it is asked."""
    gauge = self._gauge
    gauge("miras_queue", "Questions that wait").set_function(lambda: engine.waiting)
    busy = gauge("miras_slots_busy", "Rows that answer")
    busy.set_function(lambda: engine.answering)
    held = gauge("miras_conversations", "Conversations held")
    held.set_function(lambda: len(store))

  def text(self) -> bytes:
    return prometheus.generate_latest(self._registry)

  content_type = prometheus.CONTENT_TYPE_LATEST
