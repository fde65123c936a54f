"""What a caller is told of its limits, also where it was refused, and limits that a whole tenant shares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from play import chat, nothing_is_held, play, someone, starter_policies
from policy_sets import INVARIANTS, STARTER

from gateway.policy.files import read_files
from gateway.policy.holder import PolicyHolder

WHOLE = b"""
[tenants."*"]
says = "x"
requests_per_minute = 2
tokens_per_minute = 3000
concurrent = 2
"""


def limits(headers: Mapping[str, str]) -> tuple[str, str]:
    return headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]


@pytest.mark.parametrize(
    ("role", "tier"), [("analyst", ("20", "20000")), ("developer", ("300", "300000")), ("loadtest", ("10000000", "100000000000"))]
)
@pytest.mark.parametrize(
    "refused",
    [{"path": "/v1/nothing"}, {"asked": chat("hi", model="nothing")}, {"asked": chat("hi", model="restricted")}, {"asked": b"{"}],
)
async def test_a_refusal_tells_the_limits_of_who_was_refused(role: str, tier: tuple[str, str], refused: dict[str, object]) -> None:
    played = await play(who=someone(role), **refused)  # type: ignore[arg-type]
    nothing_is_held(played)
    assert played.sink.status in (400, 403, 404)
    assert limits(played.sink.headers) == tier


async def test_someone_whom_no_policy_knows_stands_in_the_default_tier() -> None:
    assert limits((await play(who=someone(""))).sink.headers) == ("20", "20000")


@pytest.fixture
def shared(tmp_path: Path) -> PolicyHolder:
    """The starter set with limits of whole tenants."""
    root = tmp_path / "policies"
    for name, content in read_files(STARTER).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content + (WHOLE if name == "limits.toml" else b""))
    known = starter_policies().current.routes
    return PolicyHolder(root, routes=dict(known), invariants=INVARIANTS, tenants={"acme"})


async def test_a_tenants_limits_hold_over_those_of_its_subjects(shared: PolicyHolder) -> None:
    first = await play(who=someone("developer"), breaks={"policies": shared})
    assert first.sink.status == 200 and limits(first.sink.headers) == ("2", "3000")
    assert first.sink.headers["x-ratelimit-remaining-requests"] == "1"
    third = await play(who=someone("developer"), breaks={"policies": shared}, times=3)
    nothing_is_held(third)
    assert third.sink.status == 429 and third.error["code"] == "rate_limit_exceeded"
    assert limits(third.sink.headers) == ("2", "3000") and third.sink.headers["x-ratelimit-remaining-requests"] == "0"
    assert 29.0 < float(third.sink.headers["retry-after"]) <= 30.0


async def test_a_refusal_tells_the_tenants_limits_where_they_are_tighter(shared: PolicyHolder) -> None:
    assert limits((await play(who=someone("developer"), breaks={"policies": shared}, path="/v1/nothing")).sink.headers) == ("2", "3000")
    denied = await play(chat("hi", model="restricted"), who=someone("developer"), breaks={"policies": shared})
    assert denied.sink.status == 403 and limits(denied.sink.headers) == ("2", "3000")
