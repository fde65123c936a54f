from __future__ import annotations

from collections import Counter

import pytest

from gateway.evidence import Dialect, Operation
from gateway.upstream.route import Backend, Route, order, upstream_path

A, B, C = (
    Backend(name=name, base_url="http://127.0.0.1", region=region, weight=weight)
    for name, region, weight in (("a", "eu", 3.0), ("b", "us", 1.0), ("c", "eu", 0.0))
)


def test_backends_are_tried_as_written():
    assert order(Route(name="m", backends=(A, B, C)), None, 0.9) == (A, B, C)


def test_a_region_that_is_not_allowed_is_never_used_even_if_none_is_left():
    route = Route(name="m", backends=(A, B, C))
    assert order(route, frozenset({"eu"}), 0.0) == (A, C)
    assert order(route, frozenset({"mars"}), 0.0) == ()
    assert order(route, frozenset(), 0.0) == ()


def test_spreading_follows_the_weights_and_keeps_zero_as_a_last_resort():
    route = Route(name="m", backends=(A, B, C), spread=True)
    firsts = Counter(order(route, None, draw / 1000)[0].name for draw in range(1000))
    assert firsts == {"a": 750, "b": 250}
    assert order(route, None, 0.99) == (B, A, C)


@pytest.mark.parametrize("draw", [0.0, 0.3, 0.999999])
def test_every_backend_is_in_the_order_once(draw):
    route = Route(name="m", backends=(A, B, C), spread=True)
    assert sorted(backend.name for backend in order(route, None, draw)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("backend", "operation", "path"),
    [
        (Backend(name="x", base_url=""), Operation.CHAT, "/chat/completions"),
        (Backend(name="x", base_url=""), Operation.EMBEDDINGS, "/embeddings"),
        (Backend(name="x", base_url=""), Operation.SCORE, None),
        (
            Backend(name="x", base_url="", dialect=Dialect.AZURE, model="a/../b?c"),
            Operation.CHAT,
            "/openai/deployments/a%2F..%2Fb%3Fc/chat/completions?api-version=2024-10-21",
        ),
        (
            Backend(name="x", base_url="", dialect=Dialect.AZURE),
            Operation.COMPLETIONS,
            "/openai/deployments/m/completions?api-version=2024-10-21",
        ),
        (Backend(name="x", base_url="", dialect=Dialect.PLAIN), Operation.INFER, "/v2/models/m/infer"),
        (Backend(name="x", base_url="", dialect=Dialect.PLAIN), Operation.SCORE, "/models/m/score"),
        (Backend(name="x", base_url="", dialect=Dialect.PLAIN, path="/predict"), Operation.SCORE, "/predict"),
        (Backend(name="x", base_url="", dialect=Dialect.PLAIN, path="/predict"), Operation.CHAT, None),
    ],
)
def test_paths_come_from_settings(backend, operation, path):
    assert upstream_path(backend, "m", operation) == path
