"""What may a moderation request hold? Text and text parts, and an optional word on who is speaking; the gateway answers it itself."""

from __future__ import annotations

from gateway.evidence import Operation, Role, Use
from gateway.schema.operations.spec import MODEL, Draft, Schema, array, closed, const, declare, either, enum, no_output, nullable, text

MAX_INPUTS = 256

# Not empty: every input is a segment, so that results and inputs pair up by position.
_TEXT: Schema = text(Role.USER, minLength=1)
_PART: Schema = closed({"type": const("text"), "text": _TEXT}, "type", "text")

SCHEMA: Schema = closed(
    {
        "model": MODEL,
        "input": either(_TEXT, array(_TEXT, least=1, most=MAX_INPUTS), array(_PART, least=1, most=MAX_INPUTS)),
        "role": nullable(enum("user", "assistant", "document")),
    },
    "input",
)


def name_texts(draft: Draft) -> None:
    role = Role(draft.body.get("role", "user"))
    value = draft.body["input"]
    if isinstance(value, str):
        draft.text(("input",), value, role, Use.CONTENT)
        return
    for index, one in enumerate(value):
        if isinstance(one, str):
            draft.text(("input", index), one, role, Use.CONTENT)
        else:
            draft.text(("input", index, "text"), one["text"], role, Use.CONTENT)


SPEC = declare(Operation.MODERATIONS, SCHEMA, name_texts=name_texts, limit=no_output)
