"""`gateway parity FILE`: where do the embedded model and Azure AI Content Safety agree, on texts of your own?

Each line of FILE is a text, or a JSON object with `text` and perhaps `role`. Every text is sent to the endpoint of [content_safety].
What is printed are counts by category; no text is, and a text that one side cannot judge is counted apart, never as agreement.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.assembly import content_safety
from gateway.evidence import Role
from gateway.ports import Aspect, InspectorUnavailable, Judgement, Question, RemoteModerator
from gateway.providers.local.judge import HEADS, LocalJudge
from gateway.providers.local.moderation import LinearModerator
from gateway.providers.secret_keeper import SecretFaults
from gateway.secret_sources import loaded
from gateway.settings import SettingsFaults, load

MAX_TEXTS: Final = 10_000
TEXT_S: Final = 60.0


class Agreement(msgspec.Struct):
    """How two moderators judged one category: both, neither, or one of them at or over the threshold."""

    both: int = 0
    neither: int = 0
    local_only: int = 0
    remote_only: int = 0

    @property
    def texts(self) -> int:
        return self.both + self.neither + self.local_only + self.remote_only

    @property
    def agreed(self) -> float:
        """Return the share of texts judged alike."""
        return (self.both + self.neither) / self.texts if self.texts else 0.0

    @property
    def kappa(self) -> float:
        """Return Cohen's kappa: agreement beyond what chance would give, 1 where there is nothing to disagree about."""
        if not self.texts:
            return 0.0
        local, remote = (self.both + self.local_only) / self.texts, (self.both + self.remote_only) / self.texts
        chance = local * remote + (1 - local) * (1 - remote)
        return 1.0 if chance == 1.0 else (self.agreed - chance) / (1 - chance)


def compared(pairs: Sequence[tuple[Judgement, Judgement]], at: int) -> dict[str, Agreement]:
    """Return agreement by category over (local, remote) judgements; `at` is the severity that counts as found."""
    found = {name: Agreement() for name in (*HEADS, "attack")}
    for local, remote in pairs:
        for name, agreement in found.items():
            mine, theirs = (j.attack if name == "attack" else j.severities[name] >= at for j in (local, remote))
            agreement.both += mine and theirs
            agreement.neither += not mine and not theirs
            agreement.local_only += mine and not theirs
            agreement.remote_only += theirs and not mine
    return found


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    says, example = "where local moderation and Azure AI Content Safety agree", "example: gateway parity texts.jsonl -c gateway.toml"
    parser = commands.add_parser("parity", help=says, epilog=example)
    parser.add_argument("file", metavar="FILE", type=Path, help="one text a line, or JSON objects with `text` and `role`")
    parser.add_argument("-c", "--config", type=Path, default=Path("gateway.toml"), metavar="FILE", help="settings with [content_safety]")
    parser.add_argument("--at", type=int, choices=range(1, 7), default=4, metavar="N", help="severity that counts as found (default 4)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Return 2 for what the caller can change, 1 when a text stayed unjudged, 0 otherwise."""
    try:
        settings = load(arguments.config, os.environ)
        texts = read(arguments.file.read_text(encoding="utf-8"))
        if settings.content_safety is None:
            print(f"{arguments.config}: has no [content_safety]", file=sys.stderr)
            return 2
        found, unjudged = asyncio.run(_both(settings, texts, arguments.at))
    except (SettingsFaults, SecretFaults, OSError, UnicodeDecodeError, ValueError) as fault:
        print(fault, file=sys.stderr)
        return 2
    if arguments.json:
        shown = {name: msgspec.structs.asdict(a) | {"agreed": a.agreed, "kappa": a.kappa} for name, a in found.items()}
        print(json.dumps({"at": arguments.at, "texts": len(texts), "unjudged": unjudged, "categories": shown}))
    else:
        print(f"{'category':10} {'both':>6} {'neither':>8} {'local only':>11} {'azure only':>11} {'agreed':>7} {'kappa':>6}")
        for name, a in found.items():
            print(f"{name:10} {a.both:6} {a.neither:8} {a.local_only:11} {a.remote_only:11} {a.agreed:7.1%} {a.kappa:6.2f}")
        print(f"{len(texts)} texts, severity {arguments.at} and above counts as found; {unjudged} could not be judged by both")
    return 1 if unjudged else 0


def read(content: str) -> list[tuple[str, Role]]:
    """Return the texts of a file with who speaks. Raises `ValueError` naming the line and nothing of it."""
    found: list[tuple[str, Role]] = []
    roles = [role.value for role in Role]
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        text: Any = line
        role: Any = Role.USER.value
        if line.startswith("{"):
            try:
                row: Any = json.loads(line)
                text, role = row["text"], row.get("role", role)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"line {number}: is no JSON object with a `text`") from None
        if not isinstance(text, str) or role not in roles:
            raise ValueError(f"line {number}: `text` must be a string and `role` one of {', '.join(roles)}")
        found.append((text, Role(role)))
    if not 0 < len(found) <= MAX_TEXTS:
        raise ValueError(f"the file must hold 1 to {MAX_TEXTS} texts")
    return found


async def _both(settings: Any, texts: Sequence[tuple[str, Role]], at: int) -> tuple[dict[str, Agreement], int]:
    keeper = await loaded(settings)
    remote = content_safety(settings, keeper.current)
    local = LocalJudge(LinearModerator())
    try:
        pairs = [await _judged(text, role, local, remote) for text, role in texts] if remote is not None else []
    finally:
        if remote is not None:
            await remote.aclose()
        await keeper.aclose()
    both = [pair for pair in pairs if pair is not None]
    return compared(both, at), len(texts) - len(both)


async def _judged(text: str, role: Role, local: RemoteModerator, remote: RemoteModerator) -> tuple[Judgement, Judgement] | None:
    asked = Question(text=text, role=role, aspects=frozenset({Aspect.CATEGORIES, Aspect.ATTACK}), heads=HEADS, eight_levels=True)
    try:
        (mine,), (theirs,) = [await side.judge([asked], time.monotonic() + TEXT_S) for side in (local, remote)]
    except InspectorUnavailable:
        return None
    return mine, theirs
