"""Where does text live in a JSON document of free form: the schema of a tool, of a structured answer, a map of metadata?

Everywhere: a key is text as much as a value is. Prose (descriptions, titles, examples) becomes one segment each, so that it can be
rewritten in place. Keys, enumerated values, patterns and the like must stay as they are; together they become one label, so
that a sentence cut up over neighbouring keys is read as the sentence it is.
"""

from __future__ import annotations

from typing import Any

from gateway.evidence import Role, Use
from gateway.schema.operations.spec import Draft, Path, refuse

MAX_NODES = 20_000  # a request's documents together; 128 tools of common size hold a quarter of it

_PROSE = frozenset({"description", "title", "default", "example", "examples", "$comment", "markdownDescription"})
# Words of JSON Schema itself: they say nothing of the caller's.
_VOCABULARY_LIST = """
type properties required items enum const description title default format pattern minimum maximum exclusiveMinimum
exclusiveMaximum minLength maxLength minItems maxItems uniqueItems multipleOf additionalProperties anyOf oneOf allOf not $ref $defs
definitions nullable examples object string number integer boolean array null date date-time uri email uuid name value id
"""
_VOCABULARY = frozenset(_VOCABULARY_LIST.split())
_LONG_NUMBER = 7  # digits from which a number may be an identifier of somebody


def name_document(draft: Draft, document: Any, path: Path, role: Role) -> None:
    """Name every text of the document at `path`. Refuses references out of the document, and what goes beyond `MAX_NODES`."""
    labels: dict[str, None] = {}
    stack: list[tuple[Any, Path, bool]] = [(document, path, False)]
    before = draft.nodes
    while stack:
        node, at, prose = stack.pop()
        draft.nodes += 1
        if draft.nodes > MAX_NODES:
            raise refuse(path, draft.names, "the request's documents hold too many values")
        if isinstance(node, str):
            if prose:
                draft.text(at, node, role, Use.CONTENT)
            elif node not in _VOCABULARY:
                labels[node] = None
        elif isinstance(node, dict):
            reference = node.get("$ref")
            # SECURITY: a backend that resolves references would fetch what the caller names.
            if isinstance(reference, str) and not reference.startswith("#"):
                raise refuse(path, draft.names, "a reference must stay inside its document")
            for key in node:
                if key not in _VOCABULARY and key not in _PROSE:
                    labels[key] = None
            # Last pushed is first named: reversed, so that segments come in the order of the document.
            stack.extend((node[key], (*at, key), prose or key in _PROSE) for key in reversed(node))
        elif isinstance(node, list):
            stack.extend((node[index], (*at, index), prose) for index in range(len(node) - 1, -1, -1))
        elif isinstance(node, (int, float)) and not isinstance(node, bool) and len(digits := str(node)) >= _LONG_NUMBER:
            labels[digits] = None
    draft.extra_tokens += 2 * (draft.nodes - before)  # quotes, colons, braces
    if labels:
        draft.text(path, "\n".join(labels), role, Use.LABEL)


def name_metadata(draft: Draft) -> None:
    """Name the keys and values of `metadata`, a flat map of strings."""
    metadata = draft.body.get("metadata")
    if metadata:
        draft.text(("metadata",), "\n".join(metadata), Role.USER, Use.LABEL)
        for key, value in metadata.items():
            draft.text(("metadata", key), value, Role.USER, Use.CONTENT)
