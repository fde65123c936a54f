"""What does inspection cost: cold text, a growing conversation against rescanning it, and a token's delay in a stream?

usage: python -m loadtests.micro.inspection_cost [--rounds 5]
In process, CPU time, medians of interleaved rounds. The conversation row is a ratio: inspection of every turn with the cache, over
inspection of the whole history at every turn. The delay row runs in virtual time: tokens arrive 20 ms apart, and a token's delay is
the time until the guard lets its last character go, its own processing included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

import msgspec

from gateway.assembly import local_inspection
from gateway.commands.inspect import starter_policies
from gateway.content.inspect import Inspection, Scope
from gateway.content.review import review
from gateway.content.rules import Rules
from gateway.content.stream import Findings, StreamGuard
from gateway.evidence import Direction, Role, Segment, StreamMode, Use
from gateway.policy.load import load_policies
from gateway.profiles import compile_rules
from loadtests.micro.prose import text

SCOPE = Scope("bench", b"subject")


async def judge(inspected: Inspection, rules: Rules, segments: list[Segment]) -> None:
    await review(inspected, segments, rules, Direction.INBOUND, SCOPE, float("inf"), None, Findings())


def never_blocking(rules: Rules) -> Rules:
    """Return the same looks at a text without their consequence: random words may look like anything."""
    inbound, outbound = (msgspec.structs.replace(side, record_at=side.block_at, block_at={}) for side in (rules.inbound, rules.outbound))
    return msgspec.structs.replace(rules, inbound=inbound, outbound=outbound)


def cold_ms(inspected: Inspection, rules: Rules, words: int, seed: int, count: int = 40) -> float:
    """Return CPU milliseconds a never seen text of `words` words."""
    texts = [[Segment(("t",), text(seed * 1000 + n, words), Role.USER, Use.CONTENT)] for n in range(count)]
    begin = time.process_time()
    for segments in texts:
        asyncio.run(judge(inspected, rules, segments))
    empty = time.process_time()
    for _ in texts:
        asyncio.run(asyncio.sleep(0))
    return max(0.0, (empty - begin) - (time.process_time() - empty)) / count * 1000


def conversation_ratio(rules: Rules, turns: int, seed: int) -> float:
    """Return inspection CPU of a conversation with the cache over the same with none."""
    history: list[Segment] = []
    spent = {"cached": 0.0, "rescan": 0.0}
    kept = local_inspection()
    kept_loop = asyncio.new_event_loop()
    for turn in range(turns):
        role = Role.USER if turn % 2 == 0 else Role.ASSISTANT
        history.append(Segment(("messages", turn, "content"), text(seed * 100 + turn, 60), role, Use.CONTENT))
        begin = time.process_time()
        kept_loop.run_until_complete(judge(kept, rules, history))
        spent["cached"] += time.process_time() - begin
        fresh = Inspection(kept.inspectors, type(kept.cache)(b"x" * 32))
        begin = time.process_time()
        kept_loop.run_until_complete(judge(fresh, rules, history))
        spent["rescan"] += time.process_time() - begin
    kept_loop.close()
    return spent["cached"] / spent["rescan"]


def token_delays_ms(inspected: Inspection, rules: Rules, seed: int, gap_ms: float = 20.0) -> list[float]:
    """Return the delay of each token of a 400-word answer at 50 tokens a second, window mode."""
    words = text(seed, 400).split(" ")
    tokens = [w if n == 0 else f" {w}" for n, w in enumerate(words)]
    pieces: list[str] = []
    for one in tokens:  # long words arrive in two tokens, as a tokenizer would send them
        pieces += [one[:6], one[6:]] if len(one) > 8 else [one]
    guard = StreamGuard(
        rules.outbound,
        [inspected.inspectors.scanner],
        lambda: inspected.inspectors.moderator.open(Role.ASSISTANT),
        None,
        Findings(),
        mode=StreamMode.WINDOW,
    )
    delays: list[float] = []
    waiting: list[list[float]] = []
    for number, piece in enumerate(pieces):
        now = number * gap_ms
        waiting.append([now, float(len(piece))])
        begin = time.perf_counter()
        released = sum(p.length for p in guard.feed(piece))
        now += (time.perf_counter() - begin) * 1000
        while released > 0 and waiting:
            taken = min(float(released), waiting[0][1])
            waiting[0][1] -= taken
            released -= int(taken)
            if waiting[0][1] == 0:
                delays.append(now - waiting.pop(0)[0])
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--policies", type=Path, default=starter_policies())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    policies = load_policies(arguments.policies, invariants=None, routes=None)
    rules = never_blocking(compile_rules(policies.profile(policies.content.default), policies.digest, ner_enabled=False))
    inspected = local_inspection()
    cold: dict[int, list[float]] = {100: [], 500: []}
    ratios: list[float] = []
    delays: list[float] = []
    for number in range(arguments.rounds):
        for words, seen in cold.items():
            seen.append(cold_ms(inspected, rules, words, number + 1))
        ratios.append(conversation_ratio(rules, 20, number + 1))
        delays += token_delays_ms(inspected, rules, number + 1)
    delays.sort()
    rows = {
        "cold_100_words_ms": round(statistics.median(cold[100]), 3),
        "cold_500_words_ms": round(statistics.median(cold[500]), 3),
        "conversation_20_turns_ratio": round(statistics.median(ratios), 3),
        "token_delay_p50_ms": round(delays[len(delays) // 2], 2),
        "token_delay_p95_ms": round(delays[int(len(delays) * 0.95)], 2),
    }
    print(json.dumps(rows) if arguments.json else "\n".join(f"{name:32} {value}" for name, value in rows.items()))


if __name__ == "__main__":
    main()
