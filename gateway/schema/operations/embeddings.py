"""What may an embeddings request hold? Text, or token arrays, which are decoded, inspected and sent as text."""

from __future__ import annotations

from gateway.evidence import Operation, Role
from gateway.schema.operations.completions import name_input, text_or_tokens
from gateway.schema.operations.spec import MODEL, USER, Draft, Rule, Schema, closed, declare, enum, integer, no_output, nullable

MAX_INPUTS = 2_048

SCHEMA: Schema = closed(
    {
        "model": MODEL,
        "input": text_or_tokens(Role.USER, MAX_INPUTS, shortest=1),
        "dimensions": nullable(integer(1, 65_536)),
        "encoding_format": nullable(enum("float", "base64")),
        "user": USER,
    },
    "input",
)

_RULES = {"dimensions": Rule(integer=True), "user": Rule(drop=True)}


def name_texts(draft: Draft) -> None:
    name_input(draft, "input", Role.USER)


SPEC = declare(Operation.EMBEDDINGS, SCHEMA, name_texts=name_texts, limit=no_output, rules=_RULES)
