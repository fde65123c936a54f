"""Metrics are counted once each, whatever their labels."""

from __future__ import annotations

from gateway.telemetry.metrics import Metrics


def test_counting_and_observing() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.count(metrics.refusals, 1, "policy_denied")
    metrics.count(metrics.refusals, 2, "overloaded")
    metrics.count(metrics.unauthenticated)
    metrics.observe(metrics.duration, 0.3, "chat.completions", "assistant")
    text = metrics.render().decode()
    assert 'gateway_refusals_total{code="policy_denied"} 3.0' in text
    assert 'gateway_refusals_total{code="overloaded"} 2.0' in text
    assert "gateway_unauthenticated_total 1.0" in text
    assert 'gateway_exchange_seconds_count{operation="chat.completions",route="assistant"} 1.0' in text


def test_two_processes_do_not_share() -> None:
    first, second = Metrics(), Metrics()
    first.count(first.unauthenticated)
    assert "gateway_unauthenticated_total 0.0" in second.render().decode()


def test_a_label_cannot_break_out_of_its_line() -> None:
    metrics = Metrics()
    metrics.count(metrics.refusals, 1, 'x"} 5\ngateway_forged 1')
    assert "\ngateway_forged" not in metrics.render().decode()
