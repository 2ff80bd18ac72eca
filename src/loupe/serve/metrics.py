"""Metrics of the server for Prometheus: requests, batches, queues, images and refusals, for each model.

Labels take values from bounded sets alone. The name of a model or a route that the server does not know is counted
under `other`, so no client can make new time series.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.registry import Collector

OTHER = "other"
NO_MODEL = ""

ROUTES = (
    "/",
    "/explain",
    "/metrics",
    "/openapi.json",
    "/page/{file}",
    "/predict",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models",
    "/v2/models/{model}",
    "/v2/models/{model}/infer",
    "/v2/models/{model}/ready",
)
"""Routes by their template; the version of a model is left out."""

REASONS = ("queue", "deadline", "body", "held", "images", "slow", "host", "origin", "token", "input", "model")
"""Reasons of refusals: a full queue, a passed deadline, a body or all bodies above their limit, too many images, a slow
sender, a foreign Host or Origin, a missing token, an input that cannot be read, and an unknown model."""

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
STATUSES = range(100, 600)


class Metrics:
    """Metrics in a registry of their own, with the series of each model from the start.

    Attributes:
        content_type: media type of `text`.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, models: Iterable[str], routes: Iterable[str] = ROUTES) -> None:
        self._models = frozenset(models)
        self._routes = frozenset(routes)
        self._described: dict[str, tuple[str, str, str]] = {}
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "loupe_requests", "Requests answered or refused.", ["model", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "loupe_request_seconds",
            "Time from the first byte of a request to the end of its answer.",
            ["model", "route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "loupe_batch_images", "Images in a batch of the network.", ["model"], buckets=IMAGES, registry=registry
        )
        self._queued = Gauge("loupe_queue_images", "Images that wait for the network.", ["model"], registry=registry)
        self._images = Counter(
            "loupe_images", "Images by their outcome: answered or damaged.", ["model", "outcome"], registry=registry
        )
        self._refused = Counter(
            "loupe_refused", "Requests refused, by the reason.", ["model", "reason"], registry=registry
        )
        self._info = Gauge(
            "loupe_model_info",
            "Models that are served: digest of their weights, and the engine. Always 1.",
            ["model", "weights", "engine"],
            registry=registry,
        )
        ProcessCollector(registry=registry)
        for name in sorted(self._models):
            self._start(name)

    def _start(self, name: str) -> None:
        """Create the series of a model at zero, so that the first event counts in a rate."""
        self._batches.labels(name)
        self._queued.labels(name)
        for outcome in ("answered", "damaged"):
            self._images.labels(name, outcome)
        for reason in ("queue", "deadline"):
            self._refused.labels(name, reason)

    def describe(self, model: str, weights: str, engine: str) -> None:
        """Note the weights and the engine of a model, in place of those that it had before."""
        labels = self._known(model), weights, engine
        with suppress(KeyError):
            self._info.remove(*self._described.pop(labels[0]))
        self._described[labels[0]] = labels
        self._info.labels(*labels).set(1)

    def request(self, model: str, route: str, status: int, seconds: float) -> None:
        """Count a request that ended. `model` is empty for a request of no model; `route` is its template."""
        route = route.replace("/versions/{version}", "")
        name, path = self._known(model), route if route in self._routes else OTHER
        self._requests.labels(name, path, str(status) if status in STATUSES else OTHER).inc()
        self._seconds.labels(name, path).observe(seconds)

    def batch(self, model: str, images: int) -> None:
        """Count a batch that the network computed."""
        self._batches.labels(self._known(model)).observe(images)

    def queue(self, model: str, images: int) -> None:
        """Set the number of images that wait for the network."""
        self._queued.labels(self._known(model)).set(images)

    def answered(self, model: str, images: int) -> None:
        """Count images that were classified."""
        self._images.labels(self._known(model), "answered").inc(images)

    def damaged(self, model: str, images: int) -> None:
        """Count images that could not be read."""
        self._images.labels(self._known(model), "damaged").inc(images)

    def refused(self, model: str, reason: str) -> None:
        """Count a refused request. `reason` is one of `REASONS`."""
        self._refused.labels(self._known(model), reason if reason in REASONS else OTHER).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(_WithoutCreationTimes(self._registry))

    def _known(self, model: str) -> str:
        return model if model in self._models or model == NO_MODEL else OTHER


class _WithoutCreationTimes(Collector):
    """Metrics of a registry without the time at which each series began, which would double their number."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
