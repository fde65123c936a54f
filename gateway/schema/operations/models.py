"""What may a request for the list of models hold? Nothing: its body is the empty object, whatever the method's own rules are."""

from __future__ import annotations

from gateway.evidence import Operation
from gateway.schema.operations.spec import Draft, Schema, closed, declare, no_output

SCHEMA: Schema = closed({})


def name_texts(draft: Draft) -> None:
    """Nothing to name."""
    del draft


LIST = declare(Operation.MODELS_LIST, SCHEMA, name_texts=name_texts, limit=no_output)
GET = declare(Operation.MODELS_GET, SCHEMA, name_texts=name_texts, limit=no_output)
