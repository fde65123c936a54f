"""What a profile may ask of Content Safety: everything that could not act, or would act otherwise than it reads, is a fault."""

from __future__ import annotations

import re
from typing import Any

import pytest
from policy_sets import STARTER

from gateway.content.cascade import Acts, Mode
from gateway.content.rules import Action
from gateway.policy.cloud_moderation import CloudPolicy, read_cloud, weaker_cloud
from gateway.policy.content_profiles import ContentRules, read_content
from gateway.policy.faults import Fault
from gateway.policy.toml_table import read_table
from gateway.profiles import compile_rules

TABLE = "[azure]\nblock_at = { hate = 4, violence = 4 }\n"


def read(text: str, *, outbound: bool = False, block_at: tuple[str, ...] = ("hate",), languages: tuple[str, ...] = ("en",)) -> Any:
    faults: list[Fault] = []
    table = read_table("content.toml", text.encode(), faults)
    return read_cloud(table, block_at, languages, outbound=outbound), [str(f) for f in faults]


def test_nothing_said_is_local() -> None:
    assert read("") == (None, []) and read('moderation = "local"') == (None, [])


def test_a_whole_table() -> None:
    text = 'moderation = "cascade"\n[azure]\nblock_at = { hate = 5 }\nrecord_at = { hate = 1, sexual = 2 }\nlevels = 8\n'
    text += 'uncertain = [0.2, 0.9]\nshield = "block"\nblocklists = ["codewords"]\n'
    found, faults = read(text)
    assert faults == [] and found == CloudPolicy(
        mode="cascade", block_at={"hate": 5}, record_at={"hate": 1, "sexual": 2}, uncertain=(0.2, 0.9), shield="block",
        protected_material="off", blocklists=("codewords",), levels=8,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "more", "told"),
    [
        ('moderation = "cloud"', {}, "use one of local, azure, cascade, both"),
        ('moderation = "azure"', {}, "needs a table `azure`"),
        (TABLE, {}, "set `moderation` to azure, cascade or both"),
        ('moderation = "azure"\n[azure]\n', {"block_at": ()}, "nothing is asked of Content Safety"),
        ('moderation = "cascade"\n' + TABLE, {}, "needs `uncertain`"),
        ('moderation = "cascade"\n' + TABLE + "uncertain = [0.9, 0.2]", {}, "needs `uncertain`"),
        ('moderation = "both"\n' + TABLE + "uncertain = [0.2, 0.9]", {}, "`uncertain` is for moderation `cascade`"),
        ('moderation = "azure"\n[azure]\nblock_at = { illicit = 4 }', {"block_at": ()}, "unknown key `illicit`"),
        ('moderation = "azure"\n[azure]\nblock_at = { hate = 7 }', {}, "must be from 1 to 6"),
        ('moderation = "azure"\n[azure]\nblock_at = { hate = 0 }', {}, "must be from 1 to 6"),
        ('moderation = "azure"\n[azure]\nlevels = 6\nblock_at = { hate = 4 }', {}, "must be 4 or 8"),
        ('moderation = "azure"\n[azure]\nblock_at = { hate = 2 }\nrecord_at = { hate = 4 }', {}, "only above the severity that blocks it"),
        ('moderation = "azure"\n' + TABLE, {"block_at": ("hate", "illicit")}, "`illicit` would be judged by nobody"),
        ('moderation = "azure"\n' + TABLE, {"block_at": ("hate", "attack")}, "`attack` would be judged by nobody"),
        ('moderation = "both"\n' + TABLE, {"languages": ("en", "nl")}, "not trained for `nl`"),
        ('moderation = "both"\n' + TABLE + 'shield = "block"', {"outbound": True}, "`shield` is for what users send"),
        ('moderation = "both"\n' + TABLE + 'protected_material = "block"', {}, "`protected_material` is for what models answer"),
        ('moderation = "both"\n' + TABLE + "threshold = 4", {}, "unknown key `threshold`"),
    ],
)
def test_what_is_refused_and_what_is_said(text: str, more: dict[str, Any], told: str) -> None:
    _, faults = read(text, **more)
    assert any(told in fault for fault in faults), faults


def test_with_a_shield_attacks_are_judged() -> None:
    assert read('moderation = "azure"\n' + TABLE + 'shield = "block"', block_at=("hate", "attack"))[1] == []


def cloud(mode: str = "azure", **more: Any) -> CloudPolicy:
    given = {"block_at": {"hate": 4}, "record_at": {}, "uncertain": (0.2, 0.9), "shield": "off", "protected_material": "off"}
    return CloudPolicy(**({"mode": mode, "blocklists": (), "levels": 4} | given | more))


@pytest.mark.parametrize(
    ("strict", "loose", "bad"),
    [
        (None, None, []),
        (cloud(), cloud(), []),
        (cloud("both"), None, []),
        (cloud("both"), cloud("azure"), []),
        (cloud("both"), cloud("cascade"), []),
        (cloud("azure"), None, ["moderation"]),
        (cloud("cascade", block_at={"sexual": 4}), None, []),
        (None, cloud("azure"), ["moderation"]),
        (cloud("cascade"), cloud("both"), ["moderation"]),
        (cloud("both", block_at={"hate": 6}), cloud(), ["azure.block_at.hate"]),
        (cloud(shield="record"), cloud(shield="block"), ["azure.shield"]),
        (cloud(), cloud(blocklists=("a",)), ["azure.blocklists"]),
        (cloud(), cloud(record_at={"sexual": 2}), ["azure.record_at.sexual"]),
        (cloud("cascade", uncertain=(0.1, 0.9)), cloud("cascade"), ["azure.uncertain"]),
    ],
)
def test_the_order_of_strictness_knows_it(strict: CloudPolicy | None, loose: CloudPolicy | None, bad: list[str]) -> None:
    assert weaker_cloud(strict, loose, {"hate": 0.7}) == bad


def default_alone(**changes: str) -> tuple[ContentRules, list[str]]:
    """Read the starter set's default profile with text put in place of other text."""
    text = (STARTER / "content.toml").read_text(encoding="utf-8").partition("[profiles.echo]")[0].replace(', "nl"', "")
    text = re.sub(r"strictness = \[.*\]", 'strictness = ["default"]', text)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    faults: list[Fault] = []
    return read_content(text.encode(), {}, faults), [str(f) for f in faults]


BOTH = '[profiles.default.inbound]\nmoderation = "both"\nazure = { block_at = { hate = 4 }, shield = "block" }'
OUT = '[profiles.default.outbound]\nmoderation = "both"\nazure = { block_at = { hate = 4 }, protected_material = "block" }'


def test_answers_judged_by_the_service_are_held_until_its_verdict() -> None:
    _, faults = default_alone(**{"[profiles.default.outbound]": OUT})
    assert len(faults) == 1 and 'set stream_mode = "strict"' in faults[0]
    strict = {"[profiles.default]": '[profiles.default]\nstream_mode = "strict"'}
    assert default_alone(**{"[profiles.default.outbound]": OUT, **strict})[1] == []


@pytest.mark.parametrize(("word", "action"), [("block", Action.BLOCK), ("local", Action.ALLOW), ("allow_flagged", Action.RECORD)])
def test_each_way_to_go_on_becomes_what_it_says(word: str, action: Action) -> None:
    said = {'on_inspector_error = "block"': f'on_inspector_error = "{word}"'}
    made, faults = default_alone(**{"[profiles.default.inbound]": BOTH, **said})
    assert faults == []
    rules = compile_rules(made.profiles["default"], "sha256:0", ner_enabled=False)
    assert rules.inbound.on_error is action
    assert rules.inbound.cloud is not None and rules.inbound.cloud.mode is Mode.BOTH and rules.inbound.cloud.shield is Acts.BLOCK
    assert rules.outbound.cloud is None
