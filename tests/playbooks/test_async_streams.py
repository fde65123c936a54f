"""`async`: text leaves at once, inspection reads on behind, and what it finds ends the stream within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from play import DONE, chat, event, nothing_is_held, play, someone, streamed
from policy_sets import STARTER, small
from poured_streams import DONE as END
from poured_streams import ending, in_pieces, pour, starter_rules
from poured_streams import event as channel_event

from gateway.content.stream import ASYNC_BOUND
from gateway.evidence import Obligations, Span, StreamMode
from gateway.policy.decide import PolicySet
from gateway.policy.facts import RouteFacts, Zones
from gateway.policy.faults import PolicyFaults
from gateway.policy.files import read_files
from gateway.policy.load import Invariants, build

PROSE = (
    "The committee met in the morning and spoke about roads, then about schools, and after lunch about the price of bread. Nobody had "
    "expected that the meeting would go on for so long, but there was much to say and the room was warm. "
)
THREAT = (
    "I will find you and I will kill you and your whole family tonight, you worthless animal. I will cut your throat and burn your house "
    "down, and I will kill everyone you love. You deserve to die in pain, you filthy animal. "
)


def permits(*modes: str) -> str:
    made = []
    for at, mode in enumerate(modes):
        said = f'@stream_mode("{mode}") ' if mode else ""
        made.append(
            f'@id("p{at}") @says("x") @owner("x") {said}permit (principal in Gateway::Role::"reader", '
            'action == Gateway::Action::"chat", resource);'
        )
    return "\n".join(made)


def obliged(*modes: str) -> Obligations:
    policies = small(permits(*modes), routes={"m": RouteFacts(name="m", operations=frozenset({"chat.completions"}), data_class="internal")})
    from policy_sets import WEDNESDAY_NOON_S, asked

    subject = someone("reader")
    return policies.permit(subject, asked("m"), WEDNESDAY_NOON_S).obligations


@pytest.mark.parametrize(
    ("modes", "mode"),
    [
        ([""], StreamMode.WINDOW), (["async"], StreamMode.ASYNC),
        (["async", "async"], StreamMode.ASYNC), (["async", ""], StreamMode.WINDOW),
        (["async", "window"], StreamMode.WINDOW), (["async", "strict"], StreamMode.STRICT), (["strict", ""], StreamMode.STRICT),
    ],
)  # fmt: skip
def test_the_strictest_permit_wins(modes: list[str], mode: StreamMode) -> None:
    assert obliged(*modes).stream_mode is mode


INVARIANT = b"""
[[test]]
name = "no answer leaves before it was inspected"
who = { app_roles = ["developer"] }
does = "use"
on = "*"
expect = ["permit", "deny", "unseen"]
obliged = { stream_mode = ["window", "strict"] }
"""


def with_async() -> dict[str, bytes]:
    files = dict(read_files(STARTER))
    name = "access/developer.cedar"
    changed = files[name].replace(b"@profile(", b'@stream_mode("async") @profile(')
    assert changed != files[name]
    files[name] = changed
    return files


def test_an_invariant_forbids_it() -> None:
    files = with_async()
    build(files, routes=None, zones=Zones())
    build(read_files(STARTER), routes=None, zones=Zones(), invariants=Invariants("inv.toml", INVARIANT))
    with pytest.raises(PolicyFaults, match="async"):
        build(files, routes=None, zones=Zones(), invariants=Invariants("inv.toml", INVARIANT))


def test_no_starter_policy_uses_it() -> None:
    assert not any(b'@stream_mode("async")' in data for name, data in read_files(STARTER).items() if name.startswith("access/"))


class Names:
    """Finds `Ada Lovelace` once it is let to."""

    name, version = "names", "0"

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[str] = []

    async def detect(self, texts: Sequence[str], deadline_s: float) -> list[list[Span]]:
        self.asked += texts
        await self.go.wait()
        return [[Span(at, at + 12, "PERSON", 0.9, "names")] if (at := text.find("Ada Lovelace")) >= 0 else [] for text in texts]


def words(text: str) -> list[bytes]:
    return [channel_event("content", piece) for piece in in_pieces(text, range(5, len(text), 5))]


async def test_clean_text_leaves_as_it_came_and_ends_well() -> None:
    poured = await pour([*words(PROSE * 3), ending(), END], mode=StreamMode.ASYNC)
    assert poured.text() == PROSE * 3 and poured.finishes == {0: "stop"}
    assert poured.stream._exchange.stream_mode == "async"
    assert poured.stream._exchange.released_chars == len(PROSE * 3)


async def test_text_does_not_wait_for_names_but_no_further_than_the_bound() -> None:
    names = Names()
    text = "It was Ada Lovelace who came. " + PROSE * 12
    task = asyncio.ensure_future(pour([*words(text), ending(), END], mode=StreamMode.ASYNC, ner=names, rules=starter_rules(ner=True)))
    for _ in range(2_000):
        await asyncio.sleep(0)
    assert not task.done() and names.asked, "it waits for the names before it goes beyond the bound"
    names.go.set()
    poured = await task
    assert poured.blocked and "PERSON" in poured.outcome.verdict.flagged
    assert poured.finishes == {0: "content_filter"}
    end = text.index("Ada Lovelace") + len("Ada Lovelace")
    assert end < len(poured.text()) <= end + ASYNC_BOUND + 240, "it was shown, and the stream ended within the bound"


async def test_text_that_breaks_a_rule_ends_the_stream_within_the_bound() -> None:
    for before in (0, 1, 5):
        text = PROSE * before + THREAT + PROSE * 20
        poured = await pour([*words(text), ending(), END], mode=StreamMode.ASYNC)
        assert poured.blocked and poured.finishes == {0: "content_filter"}
        assert len(poured.text()) <= len(PROSE * before + THREAT) + ASYNC_BOUND
        assert poured.stream._exchange.released_chars >= len(PROSE * before)
        assert poured.raw.endswith(b"data: [DONE]\n\n")


async def test_what_would_be_redacted_ends_the_stream() -> None:
    poured = await pour([*words(PROSE + "Write to jane.roe@example.com today. " + PROSE), ending(), END], mode=StreamMode.ASYNC)
    assert poured.blocked and "EMAIL_ADDRESS" in poured.outcome.verdict.flagged
    assert "jane.roe@example.com" not in poured.text(), "a word that is a finding by itself has not left yet"


async def test_a_secret_is_redacted_and_the_stream_goes_on() -> None:
    secret = "AKIA" + "Q3EXAMPLE7XK2MPL"
    key = "-----BEGIN " + "PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 4 + "-----END PRIVATE KEY-----"
    text = f"{PROSE}The key is {secret} and the other one is\n{key}\nand that is all. {PROSE}"
    poured = await pour([*words(text), ending(), END], mode=StreamMode.ASYNC)
    assert not poured.blocked and poured.finishes == {0: "stop"}
    assert poured.text() == text.replace(secret, "<SECRET>").replace(key, "<SECRET>")


async def test_a_value_over_two_channels_ends_the_stream() -> None:
    chunks = [channel_event("reasoning", PROSE + "jane.roe@"), channel_event("content", "example.com is it. " + PROSE), ending(), END]
    poured = await pour(chunks, mode=StreamMode.ASYNC)
    assert poured.blocked and "jane.roe@example.com" not in poured.shown


async def test_tool_arguments_wait_as_ever() -> None:
    halves = [channel_event("arguments", half) for half in ('{"to": "jane.roe@exam', 'ple.com"}')]
    chunks = [channel_event("name", "send"), *halves, ending(), END]
    poured = await pour(chunks, mode=StreamMode.ASYNC)
    assert poured.text("arguments") == '{"to":"<EMAIL_ADDRESS>"}'


async def test_what_is_found_at_the_very_end_still_ends_it() -> None:
    poured = await pour([*words(PROSE + THREAT.strip()), ending(), END], mode=StreamMode.ASYNC)
    assert poured.finishes == {0: "content_filter"}


class Sets:
    """A holder of one set."""

    def __init__(self, policies: PolicySet) -> None:
        self.current = policies


def house_parts() -> dict[str, Any]:
    routes = {"assistant": RouteFacts(name="assistant", operations=frozenset({"chat.completions"}), data_class="internal")}
    return {"policies": Sets(build(with_async(), routes=routes, zones=Zones()))}


@pytest.mark.parametrize("blocked", [False, True])
async def test_the_record_says_how_it_left_and_how_much(blocked: bool) -> None:
    said = PROSE + (THREAT if blocked else "")
    answer = [*(event(piece) for piece in in_pieces(said, range(7, len(said), 7))), event(finish="stop"), DONE]
    played = await play(chat("Please say hello.", stream=True), answer, breaks=house_parts())
    nothing_is_held(played)
    closed = played.record("closed")
    assert played.record("opened")["obligations"]["stream_mode"] == "async"
    assert closed["stream_mode"] == "async"
    assert closed["outcome"] == ("blocked" if blocked else "finished")
    assert len(played.text) <= closed["released_chars"] < len(played.text) + 7, "an event leaves when all of it may"
    assert blocked or closed["released_chars"] == len(said)


async def test_other_streams_say_window() -> None:
    played = await play(chat("Please say hello.", stream=True), streamed("All is well."))
    assert (played.record("closed")["stream_mode"], played.record("closed")["released_chars"]) == ("window", 12)
    played = await play(chat("Please say hello."))
    assert "stream_mode" not in played.record("closed")


@pytest.mark.parametrize("step", ["begin", "chunk", "chunk 2", "write", "end", "names 2"])
async def test_leaving(step: str) -> None:
    said = PROSE * 2
    answer = [*(event(piece) for piece in in_pieces(said, range(40, len(said), 40))), event(finish="stop"), DONE]
    played = await play(chat("Please say hello.", stream=True), answer, breaks=house_parts(), leave_at=step)
    nothing_is_held(played)
    assert played.record("closed")["outcome"] == "client_gone"
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()], "names are still looked for"
