"""Does the body fit its operation, as far as policy lets it, and which texts does it hold?

In order: (1) the closed schema; (2) fields that need a grant, fields that are dropped, nulls, integers written as 1.0; (3) the model
in the body is the route decided on; (4) every text named; (5) limits on output put in force; (6) an estimate of the input's tokens.
What leaves is written from the result, so a field that got lost here does not exist upstream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gateway.evidence import Obligations, Operation, Permit, ValidRequest
from gateway.refusals import DEPLOYMENT_NOT_FOUND, Refusal
from gateway.schema import faults, tokens
from gateway.schema.operations import chat, completions, embeddings, models, moderations, plain
from gateway.schema.operations.spec import NOT_GRANTED, Draft, Path, Spec, refuse
from gateway.schema.tokens import Tokenizer

BUILT_IN: Mapping[Operation, Spec] = MappingProxyType(
    {
        spec.operation: spec
        for spec in (chat.SPEC, completions.SPEC, embeddings.SPEC, moderations.SPEC, models.LIST, models.GET, plain.INFER)
    }
)
_STREAMED = frozenset({Operation.CHAT, Operation.COMPLETIONS})
_MODEL_IN_BODY = frozenset({Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS, Operation.MODERATIONS})


class Specs:
    """The operations' declarations of one settings generation: the built-in ones, and a plain one for each route that has a schema."""

    def __init__(self, plain_routes: Mapping[str, Spec] | None = None) -> None:
        self._plain = dict(plain_routes or {})

    def find(self, operation: Operation, route: str) -> Spec:
        """Return the declaration. Raises `Refusal(DEPLOYMENT_NOT_FOUND)` for a plain operation on a route without a schema."""
        spec = self._plain.get(route)
        if spec is not None and spec.operation is operation:
            return spec
        built_in = BUILT_IN.get(operation)
        if built_in is None:
            raise Refusal(DEPLOYMENT_NOT_FOUND, detail="the route has no schema for this operation")
        return built_in

    def plain(self) -> Mapping[str, Spec]:
        return MappingProxyType(self._plain)


def validate(permit: Permit, specs: Specs, tokenizer: Tokenizer | None = None) -> ValidRequest:
    """Return the request in valid form. Raises `Refusal(INVALID_REQUEST)` with `param` and a constant message.

    `tokenizer` decodes token arrays; without one they are refused.
    """
    asked, obligations = permit.asked, permit.obligations
    spec = specs.find(asked.operation, permit.route)
    body = asked.body
    if not spec.validator.is_valid(body):
        raise faults.fault(spec, body)
    draft = Draft(_settle(spec, body, obligations), obligations.grants, spec.names, tokenizer)
    if asked.operation in _MODEL_IN_BODY:
        # SECURITY: a body that names another model than the path did would be decided on as one and billed as the other.
        if body.get("model", asked.model) != asked.model:
            raise refuse(("model",), spec.names, "the model must be the deployment that the path names")
        draft.body["model"] = asked.model
    spec.name_texts(draft)
    output_tokens = spec.limit(draft, obligations)
    stream = include_usage = False
    if asked.operation in _STREAMED:
        stream, include_usage = _settle_stream(draft, spec)
    return ValidRequest(
        permit=permit,
        body=draft.body,
        segments=tuple(draft.segments),
        stream=stream,
        include_usage=include_usage,
        input_tokens=tokens.estimate("\n".join([segment.text for segment in draft.segments])) + draft.extra_tokens,
        output_tokens=output_tokens,
        uninspected=tuple(draft.uninspected),
    )


def _settle(spec: Spec, body: dict[str, Any], obligations: Obligations) -> dict[str, Any]:
    """Return the body's top level with grants checked, and without what is null, neutral or dropped."""
    rules = spec.rules
    settled: dict[str, Any] = {}
    for field, value in body.items():
        if value is None:
            continue
        rule = rules.get(field)
        if rule is None:
            settled[field] = value
            continue
        if rule.drop or value in rule.neutral:
            continue
        if rule.grant and rule.grant not in obligations.grants:
            raise refuse((field,), spec.names, NOT_GRANTED)
        settled[field] = int(value) if rule.integer else value  # JSON Schema's integers include 1.0
    # SECURITY: both together copy a model's last layer (arXiv 2403.06634); two permits could each grant one.
    if "logit_bias" in settled and "logprobs" in settled:
        raise refuse(("logit_bias",), spec.names, "logit_bias and logprobs are never taken together")
    return settled


def _settle_stream(draft: Draft, spec: Spec) -> tuple[bool, bool]:
    """Return whether to stream and whether the client wants the usage chunk; ask upstream for it always."""
    body = draft.body
    stream = body.get("stream", False) is True
    options = body.pop("stream_options", None)
    if not stream:
        body.pop("stream", None)
        if options:
            raise refuse(("stream_options",), spec.names, "stream_options needs stream to be true")
        return False, False
    if "logprobs" in body:
        # They repeat the tokens of text that is still being held back.
        raise refuse(("logprobs",), spec.names, "log probabilities are not streamed")
    if body.get("best_of", 1) != 1:
        raise refuse(("best_of",), spec.names, "best_of cannot be streamed")
    body["stream_options"] = {"include_usage": True}
    return True, bool(options and options.get("include_usage"))


def replace(body: dict[str, Any], path: Path, new_text: str) -> dict[str, Any]:
    """Return `body` with the text at a segment's path replaced; what lies beside the path is shared, never changed."""
    return replace_all(body, [(path, new_text)])


def replace_all(body: dict[str, Any], texts: Sequence[tuple[Path, str]]) -> dict[str, Any]:
    """Return `body` with several texts replaced, copying every container on the way once."""
    copied: dict[Path, Any] = {(): dict(body)}
    for path, text in texts:
        if not path:
            raise ValueError("a text has a path")
        node = copied[()]
        for depth, step in enumerate(path[:-1], start=1):
            at = path[:depth]
            below = copied.get(at)
            if below is None:
                below = copied[at] = node[step].copy()
                node[step] = below
            node = below
        node[path[-1]] = text
    result: dict[str, Any] = copied[()]
    return result


