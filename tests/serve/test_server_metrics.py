"""Metrics of the server: their values, and labels from bounded sets alone."""

import math

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from loupe.serve.metrics import IMAGES, SECONDS, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_what_is_counted_is_in_the_text():
    metrics = Metrics(["a", "b"])
    for seconds in (0.004, 0.012, 31.0):
        metrics.request("a", "/predict", 200, seconds)
    metrics.request("", "/v2/health/live", 200, 0.001)
    metrics.batch("a", 5)
    metrics.queue("b", 7)
    metrics.queue("b", 3)
    metrics.answered("a", 4)
    metrics.damaged("a", 1)
    metrics.refused("b", "queue")
    assert value(metrics, "loupe_requests_total", model="a", route="/predict", status="200") == 3
    assert value(metrics, "loupe_requests_total", model="", route="/v2/health/live", status="200") == 1
    buckets = [
        value(metrics, "loupe_request_seconds_bucket", model="a", route="/predict", le=le)
        for le in ("0.005", "0.01", "0.02", "30.0", "+Inf")
    ]
    assert buckets == [1, 1, 2, 2, 3]
    assert value(metrics, "loupe_request_seconds_sum", model="a", route="/predict") == pytest.approx(31.016)
    assert value(metrics, "loupe_batch_images_bucket", model="a", le="4.0") == 0
    assert value(metrics, "loupe_batch_images_bucket", model="a", le="6.0") == 1
    assert value(metrics, "loupe_queue_images", model="b") == 3
    assert value(metrics, "loupe_images_total", model="a", outcome="answered") == 4
    assert value(metrics, "loupe_images_total", model="a", outcome="damaged") == 1
    assert value(metrics, "loupe_refused_total", model="b", reason="queue") == 1
    assert value(metrics, "loupe_refused_total", model="a", reason="queue") == 0  # there from the start
    assert value(metrics, "process_resident_memory_bytes") > 2**20


def test_buckets_reach_from_a_small_network_to_the_deadline():
    assert (SECONDS[0], SECONDS[-1], IMAGES[0], IMAGES[-1]) == (0.005, 30.0, 1, 64)
    assert list(SECONDS) == sorted(set(SECONDS)) and list(IMAGES) == sorted(set(IMAGES))


def test_no_client_makes_a_new_series():
    metrics = Metrics(["a"])
    metrics.request("x", "/x", 200, 0.1)
    metrics.request("a", "/predict", 200, 0.1)
    metrics.refused("x", "x")
    metrics.request("x", "/predict", 99999, 0.1)
    before = samples(metrics).keys()
    for number in range(50):
        name = f'{number}"\n{{}}'
        metrics.request(name, f"/{name}", 200, 0.1)
        metrics.request(name, "/predict", number * 1000, 0.1)
        metrics.refused(name, name)
        metrics.answered(name, 1)
        metrics.damaged(name, 1)
        metrics.queue(name, 1)
        metrics.batch(name, 1)
    new = {dict(labels).get("model") for name, labels in samples(metrics).keys() - before}
    assert new == {"other"}
    assert value(metrics, "loupe_requests_total", model="other", route="other", status="200") == 51


def test_a_model_that_is_loaded_again_has_one_description():
    metrics = Metrics(["a", "b"])
    metrics.describe("a", "0123", "torch")
    metrics.describe("b", "4567", "openvino")
    metrics.describe("a", "89ab", "onnxruntime")
    described = [dict(labels) for name, labels in samples(metrics) if name == "loupe_model_info"]
    assert sorted(described, key=lambda labels: labels["model"]) == [
        {"model": "a", "weights": "89ab", "engine": "onnxruntime"},
        {"model": "b", "weights": "4567", "engine": "openvino"},
    ]


def test_two_servers_in_a_process_share_nothing():
    one, other = Metrics(["a"]), Metrics(["a"])
    one.answered("a", 3)
    assert value(other, "loupe_images_total", model="a", outcome="answered") == 0
    assert not any(family.name.startswith("loupe") for family in REGISTRY.collect())


def test_figures_are_finite_and_the_type_is_of_prometheus():
    metrics = Metrics(["a"])
    assert all(math.isfinite(figure) for figure in samples(metrics).values())
    assert not any(name.endswith("_created") for name, _ in samples(metrics))
    assert metrics.content_type.startswith("text/plain; version=")
