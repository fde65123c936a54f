"""Whether a gateway has a second opinion: by what profiles ask, what settings allow and what is installed."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.assembly import asks_twice, local_inspection, second_opinion
from gateway.providers.local import encoder


def policies(*asking: str) -> Any:
    def side(name: str) -> Any:
        return SimpleNamespace(second_opinion=name in asking)

    profiles = {name: SimpleNamespace(inbound=side(name), outbound=side(f"{name}-out")) for name in ("calm", "careful")}
    return SimpleNamespace(content=SimpleNamespace(profiles=profiles))


def settings(allowed: bool = True) -> Any:
    return SimpleNamespace(inspection=SimpleNamespace(second_opinion=allowed))


def test_who_asks() -> None:
    assert asks_twice(policies()) == []
    assert asks_twice(policies("careful", "calm-out")) == ["calm", "careful"]


def test_switched_off_in_settings_it_is_missed_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="gateway"):
        assert second_opinion(settings(allowed=False), policies("careful")) is None
    assert ["no second opinion: settings switch it off"] == [record.getMessage() for record in caplog.records]


def test_where_nobody_asks_only_its_card_is_read() -> None:
    if not encoder.available():
        pytest.skip("the extra `encoder` is not installed")
    made = second_opinion(settings(), policies())
    assert made is not None
    found = local_inspection(opinion=made)
    assert f"encoder@{made.version}" in found.names and found.inspectors.blend is made.blend
    assert made.loaded is False
    asked = second_opinion(settings(), policies("careful"))
    assert asked is not None and asked.loaded is True


def test_a_profile_that_asks_needs_it_installed() -> None:
    if encoder.available():
        pytest.skip("the extra `encoder` is installed")
    with pytest.raises(RuntimeError, match="`careful` asks for a second opinion"):
        second_opinion(settings(), policies("careful"))
    assert second_opinion(settings(), policies()) is None
