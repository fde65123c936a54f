"""What does a profile ask of Azure AI Content Safety? The `moderation` key and the `azure` table of one direction, as plain data.

What could not act, or would act otherwise than it reads, is a fault: a category the service does not judge, a language it is not trained
for, a threshold its scale does not reach, a check in the direction it is not made for, a stream that would leave before its verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.policy.toml_table import Table

MODES = ("local", "azure", "cascade", "both")
CATEGORIES = ("hate", "sexual", "violence", "self_harm")
LANGUAGES = frozenset({"de", "en", "es", "fr", "it", "ja", "pt", "zh"})
_ACTS = ("off", "record", "block")


class CloudPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds are severities; a category that is absent never acts."""

    mode: str  # azure, cascade, both
    block_at: Mapping[str, int]
    record_at: Mapping[str, int]
    uncertain: tuple[float, float]
    shield: str
    protected_material: str
    blocklists: tuple[str, ...]
    levels: int


def read_cloud(table: Table, block_at: Iterable[str], languages: Iterable[str], *, outbound: bool) -> CloudPolicy | None:
    """Read one direction; None where it is moderated locally. `block_at` are the heads its local thresholds name."""
    mode = table.choice("moderation", MODES, default="local")
    if mode == "local":
        if "azure" in table.data:
            table.fault("`azure` says how Content Safety moderates: set `moderation` to azure, cascade or both", "azure")
        return None
    if "azure" not in table.data:
        table.fault(f"moderation `{mode}` needs a table `azure` that says what is asked and what is blocked", "moderation")
        return None
    own = table.table("azure")
    own.known("block_at", "record_at", "uncertain", "shield", "protected_material", "blocklists", "levels")
    levels = own.integer("levels", 4, 8, default=4)
    if levels not in (4, 8):
        own.fault("`levels` must be 4 or 8", "levels")
    policy = CloudPolicy(
        mode=mode,
        block_at=_severities(own.table("block_at"), levels),
        record_at=_severities(own.table("record_at"), levels),
        uncertain=_band(own, mode),
        shield=own.choice("shield", _ACTS, default="off"),
        protected_material=own.choice("protected_material", _ACTS, default="off"),
        blocklists=own.strings("blocklists"),
        levels=levels,
    )
    for head in sorted(policy.block_at.keys() & policy.record_at.keys()):
        if policy.record_at[head] > policy.block_at[head]:
            own.fault(f"`{head}` is recorded only above the severity that blocks it", "record_at", head)
    _check_use(own, policy, outbound)
    if mode == "azure":
        judged = {*policy.block_at, *policy.record_at, *(("attack",) if policy.shield != "off" else ())}
        for head in sorted(set(block_at) - judged):
            message = f"`{head}` would be judged by nobody with moderation `azure`: use `both` or `cascade`, or leave it out"
            table.fault(message, "block_at", head)
    for language in sorted(set(languages) - LANGUAGES):
        table.fault(f"Content Safety is not trained for `{language}`: leave it out, or moderate locally", "languages")
    return policy


def _check_use(own: Table, policy: CloudPolicy, outbound: bool) -> None:
    if outbound and policy.shield != "off":
        own.fault("`shield` is for what users send", "shield")
    if not outbound and policy.protected_material != "off":
        own.fault("`protected_material` is for what models answer", "protected_material")
    used = (policy.block_at, policy.record_at, policy.blocklists, policy.shield != "off", policy.protected_material != "off")
    if not any(used):
        own.fault("nothing is asked of Content Safety: give `block_at`, `blocklists`, `shield` or `protected_material`")


def _severities(table: Table, levels: int) -> dict[str, int]:
    table.known(*CATEGORIES)
    most = 6 if levels == 4 else 7
    return {head: table.integer(head, 1, most) for head in table.data if head in CATEGORIES}


def _band(own: Table, mode: str) -> tuple[float, float]:
    if mode != "cascade":
        if "uncertain" in own.data:
            own.fault(f"`uncertain` is for moderation `cascade`, not `{mode}`", "uncertain")
        return (0.0, 1.0)
    band = own.data.get("uncertain")
    numbers = band if isinstance(band, list) else []
    good = len(numbers) == 2 and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if not good or not 0.0 <= numbers[0] < numbers[1] <= 1.0:
        message = "moderation `cascade` needs `uncertain`: the local scores between which Content Safety is asked, such as [0.2, 0.9]"
        own.fault(message, "uncertain")
        return (0.0, 1.0)
    return (float(numbers[0]), float(numbers[1]))


def weaker_cloud(strict: CloudPolicy | None, loose: CloudPolicy | None, blocks: Iterable[str]) -> list[str]:
    """Name each rule in which `strict` does less than `loose`, whose local scores block the heads `blocks`.

    Ways to moderate that differ are comparable with `both`, which only adds, and with a local profile whose blocks nobody overrules.
    """
    modes = (strict.mode if strict else "local", loose.mode if loose else "local")
    if strict is None:
        return ["moderation"] if loose is not None else []
    if loose is None:
        overruled = {*strict.block_at, *strict.record_at, *(("attack",) if strict.shield != "off" else ())}
        return ["moderation"] if modes[0] != "both" and overruled & set(blocks) else []
    if modes[0] not in (modes[1], "both"):
        return ["moderation"]
    bad = [f"azure.block_at.{head}" for head, at in loose.block_at.items() if strict.block_at.get(head, 8) > at]
    for head, at in loose.record_at.items():
        if min(strict.record_at.get(head, 8), strict.block_at.get(head, 8)) > at:
            bad.append(f"azure.record_at.{head}")
    for key in ("shield", "protected_material"):
        if _ACTS.index(getattr(strict, key)) < _ACTS.index(getattr(loose, key)):
            bad.append(f"azure.{key}")
    if not set(loose.blocklists) <= set(strict.blocklists):
        bad.append("azure.blocklists")
    if modes == ("cascade", "cascade") and strict.uncertain != loose.uncertain:
        bad.append("azure.uncertain")
    return bad
