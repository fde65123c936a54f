"""What do the generating operations share: sampling options, stop sequences, metadata, and the ceiling on output."""

from __future__ import annotations

from gateway.evidence import Obligations, Role, Use
from gateway.schema.operations.spec import (
    BOOLEAN,
    MAX_TOKENS,
    MODEL,
    USER,
    Draft,
    Rule,
    Schema,
    array,
    closed,
    either,
    enum,
    granted,
    integer,
    nullable,
    number,
    refuse,
    settled,
    text,
)

MAX_CHOICES = 16


def _metadata() -> Schema:
    return {
        "type": "object",
        "maxProperties": 16,
        "propertyNames": {"maxLength": 64},
        "additionalProperties": text(Role.USER, longest=512),
        "x-inspect-keys": {"role": Role.USER.value, "use": Use.LABEL.value},
    }


def _logit_bias() -> Schema:
    return granted(
        "logit_bias",
        {
            "type": ["object", "null"],
            "maxProperties": 1_024,
            "propertyNames": {"pattern": "^[0-9]{1,7}$"},
            "additionalProperties": number(-100, 100),
            "x-token": "keys are token ids",
        },
    )


def _stop() -> Schema:
    return either({"type": "null"}, text(Role.USER, longest=256), array(text(Role.USER, longest=256), most=4))


_STREAM_OPTIONS: Schema = nullable(closed({"include_usage": nullable(BOOLEAN), "include_obfuscation": nullable(BOOLEAN)}))

SAMPLING: dict[str, Schema] = {
    "model": MODEL,
    "stream": nullable(BOOLEAN),
    "stream_options": _STREAM_OPTIONS,
    "temperature": nullable(number(0, 2)),
    "top_p": nullable(number(0, 1)),
    "frequency_penalty": nullable(number(-2, 2)),
    "presence_penalty": nullable(number(-2, 2)),
    "max_tokens": nullable(integer(1, MAX_TOKENS)),
    "n": granted("n", nullable(integer(1, MAX_CHOICES))),
    "seed": nullable(integer(-(2**31), 2**31 - 1)),
    "stop": _stop(),
    "logit_bias": _logit_bias(),
    "metadata": nullable(_metadata()),
    "service_tier": settled("the route decides; dropped", nullable(enum("auto", "default"))),
    "store": granted("store", nullable(BOOLEAN)),
    "user": USER,
    "safety_identifier": USER,
}

RULES: dict[str, Rule] = {
    "max_tokens": Rule(integer=True),
    "n": Rule(grant="n", neutral=(1,), integer=True),
    "seed": Rule(integer=True),
    "logit_bias": Rule(grant="logit_bias", neutral=({},)),
    "store": Rule(grant="store", neutral=(False,)),
    "service_tier": Rule(drop=True),
    "user": Rule(drop=True),
    "safety_identifier": Rule(drop=True),
}


def name_stop(draft: Draft) -> None:
    stop = draft.body.get("stop")
    if isinstance(stop, str):
        draft.text(("stop",), stop, Role.USER, Use.CONTENT)
    elif stop:
        for index, sequence in enumerate(stop):
            draft.text(("stop", index), sequence, Role.USER, Use.CONTENT)


def settle_limit(draft: Draft, field: str, obligations: Obligations) -> int:
    """Put the output limit in force into the body: the client's, if it is within the cap, else the default."""
    cap = obligations.output_tokens_cap
    asked = draft.body.get(field)
    if asked is None:
        asked = draft.body[field] = min(obligations.output_tokens_default, cap)
    elif asked > cap:
        raise refuse((field,), draft.names, f"at most {cap} output tokens are permitted")
    return int(asked)
