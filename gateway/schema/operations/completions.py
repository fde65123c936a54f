"""What may a (legacy) completion request hold, and where is the text in it?

Prompts given as token arrays are decoded, inspected and sent as the text they are. `echo` returns the prompt, and with logprobs its
probabilities: the grant for those covers it.
"""

from __future__ import annotations

from typing import Any

from gateway.evidence import Obligations, Operation, Role, Use
from gateway.schema.operations.documents import name_metadata
from gateway.schema.operations.sampling import MAX_CHOICES, RULES, SAMPLING, name_stop, settle_limit
from gateway.schema.operations.spec import (
    BOOLEAN,
    TOKEN_ARRAY,
    Draft,
    Path,
    Rule,
    Schema,
    array,
    closed,
    declare,
    either,
    granted,
    integer,
    nullable,
    refuse,
    text,
)

MAX_PROMPTS = 64


def text_or_tokens(role: Role, most: int, *, shortest: int = 0) -> Schema:
    """One text, several, or the same as token arrays."""
    one = text(role, minLength=shortest)
    return either(
        one,
        array(one, least=1, most=most),
        TOKEN_ARRAY,
        array(TOKEN_ARRAY, least=1, most=most),
    )


def name_input(draft: Draft, field: str, role: Role) -> int:
    """Name the texts of a field of that shape, decoding token arrays into the draft; return how many inputs there are."""
    value: Any = draft.body[field]
    if isinstance(value, str):
        draft.text((field,), value, role, Use.CONTENT)
        return 1
    if not isinstance(value[0], (str, list)):
        draft.body[field] = decoded = _decode(draft, value, (field,))
        draft.text((field,), decoded, role, Use.CONTENT)
        return 1
    if isinstance(value[0], list):
        value = draft.body[field] = [_decode(draft, tokens, (field, index)) for index, tokens in enumerate(value)]
    for index, one in enumerate(value):
        draft.text((field, index), one, role, Use.CONTENT)
    return len(value)


def _decode(draft: Draft, tokens: list[Any], path: Path) -> str:
    if draft.tokenizer is None:
        raise refuse(path, draft.names, "token arrays cannot be read here; send the text")
    # JSON Schema's integers include 1.0.
    decoded = draft.tokenizer.decode([int(token) for token in tokens])
    if decoded is None:
        raise refuse(path, draft.names, "the token array is no text in this vocabulary")
    return decoded


SCHEMA: Schema = closed(
    {
        **SAMPLING,
        "prompt": text_or_tokens(Role.USER, MAX_PROMPTS),
        "suffix": nullable(text(Role.USER)),
        "best_of": granted("n", nullable(integer(1, MAX_CHOICES))),
        "echo": granted("logprobs", nullable(BOOLEAN)),
        "logprobs": granted("logprobs", nullable(integer(0, 5))),
    },
    "prompt",
)

_RULES = {
    **RULES,
    "best_of": Rule(grant="n", neutral=(1,), integer=True),
    "echo": Rule(grant="logprobs", neutral=(False,)),
    # Zero asks for the probability of the chosen token: it is no neutral value here.
    "logprobs": Rule(grant="logprobs", integer=True),
}


def name_texts(draft: Draft) -> None:
    name_input(draft, "prompt", Role.USER)
    draft.text(("suffix",), draft.body.get("suffix", ""), Role.USER, Use.CONTENT)
    name_stop(draft)
    name_metadata(draft)


def limit(draft: Draft, obligations: Obligations) -> int:
    body = draft.body
    prompts = len(body["prompt"]) if isinstance(body["prompt"], list) else 1
    choices = max(int(body.get("n", 1)), int(body.get("best_of", 1)))
    return settle_limit(draft, "max_tokens", obligations) * choices * prompts


SPEC = declare(Operation.COMPLETIONS, SCHEMA, name_texts=name_texts, limit=limit, rules=_RULES)
