"""How long does inspection keep the event loop from anything else? A 1 ms ticker beside inspection under load.

usage: taskset -c 0 python -m loadtests.micro.ticker [--seconds 60] [--no-ner] [--chats 20] [--large-every 2] [--size 500000] [--json]
Chats of never seen prose come at a steady rate; every few seconds a large tool result comes with them. A block is how much later than asked
the ticker woke. The same ticker in an empty loop comes first: what it shows is the machine's own, and no inspection can be below it. "own
turns" is what the loop's thread itself computed between two wake-ups: on a machine with other work it tells inspection from waiting.
With names on, the workers are processes: give them a core that is not the ticker's, as a deployment would (`--workers-cpu`).
Exit 1 when p99.9 is above the limit (20 ms).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from collections import Counter
from itertools import count

from gateway import loops
from gateway.assembly import local_inspection
from gateway.commands.inspect import starter_policies
from gateway.content.inspect import Inspection, Scope, TooDear
from gateway.content.review import review
from gateway.content.rules import Rules
from gateway.content.stream import Findings
from gateway.evidence import Direction, Role, Segment, Use
from gateway.policy.load import load_policies
from gateway.ports import InspectorUnavailable
from gateway.profiles import compile_rules
from gateway.providers.local.ner import NerPool
from loadtests.micro.prose import text

TICK_S = 0.001
LIMIT_MS = 20.0
EMPTY_S = 5.0
DRAIN_S = 5.0
MAX_WAITING = 64  # requests at once: beyond it the load waits, as a full server would refuse


async def ticker(blocks_ms: list[float], until: asyncio.Event, own_ms: list[float] | None = None) -> None:
    """Note how late each wake-up is, and what this thread computed meanwhile."""
    while not until.is_set():
        due, spent = time.perf_counter() + TICK_S, time.thread_time()
        await asyncio.sleep(TICK_S)
        blocks_ms.append(max(0.0, (time.perf_counter() - due) * 1000))
        if own_ms is not None:
            own_ms.append((time.thread_time() - spent) * 1000)


def prose(seed: int, size: int) -> str:
    """Return `size` characters nobody has seen. Made before the clock runs: making them blocks too."""
    return text(seed, size // 4)[:size]


async def one(inspection: Inspection, rules: Rules, segments: list[Segment], seen: Counter[str]) -> None:
    side = rules.inbound
    try:
        await review(
            inspection, segments, rules, Direction.INBOUND, Scope("bench", b"s"), time.monotonic() + side.deadline_s, None, Findings()
        )
        seen["judged"] += 1
    except (InspectorUnavailable, TooDear) as refused:
        seen[f"refused: {type(refused).__name__} {refused}".strip()] += 1


async def load(
    inspection: Inspection, rules: Rules, pool: NerPool | None, arguments: argparse.Namespace
) -> tuple[list[float], list[float], Counter[str]]:
    """Return the blocks while texts come, the loop's own turns, and what became of the texts."""
    seeds = count(5_000_000)
    chats = [
        [
            Segment(("s",), prose(next(seeds), 400), Role.SYSTEM, Use.CONTENT),
            Segment(("u",), prose(next(seeds), 1_200), Role.USER, Use.CONTENT),
        ]
        for _ in range(int(arguments.seconds * arguments.chats))
    ]
    large = [
        [Segment(("t",), prose(next(seeds), arguments.size), Role.TOOL, Use.CONTENT)]
        for _ in range(int(arguments.seconds / arguments.large_every) if arguments.large_every else 0)
    ]
    gc.collect()
    gc.freeze()
    blocks: list[float] = []
    own: list[float] = []
    seen: Counter[str] = Counter()
    ended = asyncio.Event()
    ticking = asyncio.create_task(ticker(blocks, ended, own))
    begin = time.monotonic()
    running: set[asyncio.Task[None]] = set()
    due = sorted(
        [(n / arguments.chats, chat) for n, chat in enumerate(chats)]
        + [((n + 0.5) * arguments.large_every, big) for n, big in enumerate(large)],
        key=lambda item: item[0],
    )
    for at, segments in due:
        await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
        if len(running) >= MAX_WAITING:
            seen["not offered: too many waiting"] += 1
            continue
        task = asyncio.create_task(one(inspection, rules, segments, seen))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    ended.set()
    await ticking
    patience = time.monotonic() + DRAIN_S
    while pool is not None and pool.pending and time.monotonic() < patience:  # a worker still reads what nobody awaits any more
        await asyncio.sleep(0.05)
    return blocks, own, seen


def figures(blocks: list[float]) -> dict[str, float]:
    ranked = sorted(blocks)
    at = {f"p{q}": round(ranked[min(len(ranked) - 1, int(len(ranked) * q / 100))], 3) for q in (50, 99, 99.9)}
    return {**at, "max": round(ranked[-1], 3), "ticks": float(len(ranked))}


async def run(arguments: argparse.Namespace, pool: NerPool | None) -> int:
    policies = load_policies(starter_policies(), invariants=None, routes=None)
    rules = compile_rules(policies.profile(policies.content.default), policies.digest, ner_enabled=pool is not None)
    inspection = local_inspection(ner=pool)
    for n in range(20):  # the first texts fill tables
        await one(inspection, rules, [Segment(("u",), prose(n, 1_000), Role.USER, Use.CONTENT)], Counter())
    empty: list[float] = []
    ended = asyncio.Event()
    ticking = asyncio.create_task(ticker(empty, ended))
    await asyncio.sleep(min(EMPTY_S, arguments.seconds))
    ended.set()
    await ticking
    blocks, own, seen = await load(inspection, rules, pool, arguments)
    result = {
        "empty_ms": figures(empty), "loaded_ms": figures(blocks), "own_ms": figures(own), "texts": dict(seen), "limit_ms": arguments.limit,
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, one_of in (("empty loop", result["empty_ms"]), ("under load", result["loaded_ms"]), ("own turns", result["own_ms"])):
            shown = "  ".join(f"{key} {value:.3f} ms" for key, value in one_of.items() if key != "ticks")
            print(f"{name:12} {shown}  ({int(one_of['ticks'])} ticks)")
        print("  ".join(f"{name}: {number}" for name, number in seen.items()))
    return 1 if result["loaded_ms"]["p99.9"] > arguments.limit or not seen["judged"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--chats", type=float, default=20.0, metavar="N", help="chats a second")
    parser.add_argument("--large-every", type=float, default=2.0, metavar="S", help="seconds between large texts, 0: none")
    parser.add_argument("--size", type=int, default=500_000, metavar="N", help="characters of a large text")
    parser.add_argument("--limit", type=float, default=LIMIT_MS, metavar="MS", help="what p99.9 may be")
    parser.add_argument("--no-ner", action="store_true")
    parser.add_argument("--workers-cpu", type=int, metavar="N", help="put the names process on this core")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pool = None
    if not arguments.no_ner:
        pool = NerPool(workers=1)
        pool.wait_ready()
        if arguments.workers_cpu is not None:
            for pid in pool.pids:
                os.sched_setaffinity(pid, {arguments.workers_cpu})
    try:
        with asyncio.Runner(loop_factory=loops.factory()) as runner:
            return runner.run(run(arguments, pool))
    finally:
        if pool is not None:
            pool.close()


if __name__ == "__main__":
    sys.exit(main())
