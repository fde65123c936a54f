"""What may a chat completion request hold, and where is the text in it?

The shape is the Chat Completions API as of late 2026. Left out, and so refused: everything through which a client would choose
what the backend fetches, runs, keeps or caches (`data_sources`, hosted and custom tools, `file_id`, `prompt_cache_*`,
`cache_salt`), audio output, and the function calls that `tools` replaced.
"""

from __future__ import annotations

from typing import Any

from gateway.evidence import Obligations, Operation, Role, Use
from gateway.refusals import Refusal
from gateway.schema import strict_json
from gateway.schema.operations.documents import name_document, name_metadata
from gateway.schema.operations.media import MAX_DATA_URL, MAX_URL, is_base64, is_data_image, is_remote
from gateway.schema.operations.sampling import RULES, SAMPLING, name_stop, settle_limit
from gateway.schema.operations.spec import (
    BOOLEAN,
    MAX_TOKENS,
    Draft,
    Path,
    Rule,
    Schema,
    array,
    closed,
    const,
    declare,
    either,
    enum,
    granted,
    integer,
    label,
    nullable,
    refuse,
    settled,
    text,
)
from gateway.schema.tokens import TOKENS_PER_IMAGE, TOKENS_PER_MESSAGE, TOKENS_PER_REPLY

MAX_MESSAGES = 2_048
MAX_PARTS = 256
MAX_TOOLS = 128
_FUNCTION_NAME = "^[A-Za-z0-9_.-]{1,64}$"
_MEDIA = ["uninspected"]


def _text_part(role: Role) -> Schema:
    return closed({"type": const("text"), "text": text(role)}, "type", "text")


def _texts(role: Role) -> Schema:
    return either(text(role), array(_text_part(role), least=1, most=MAX_PARTS))


def _user_content() -> Schema:
    url = {"type": "string", "maxLength": MAX_DATA_URL, "x-media": [*_MEDIA, "remote_media"]}
    data = {"type": "string", "maxLength": MAX_DATA_URL, "x-media": _MEDIA}
    detail = enum("auto", "low", "high", "original")
    image = closed({"type": const("image_url"), "image_url": closed({"url": url, "detail": detail}, "url")}, "type", "image_url")
    sound = closed({"data": data, "format": enum("wav", "mp3")}, "data", "format")
    audio = closed({"type": const("input_audio"), "input_audio": sound}, "type", "input_audio")
    named = closed({"file_data": data, "filename": label(Role.USER, longest=256)}, "file_data")
    file = closed({"type": const("file"), "file": named}, "type", "file")
    return either(text(Role.USER), array(either(_text_part(Role.USER), image, audio, file), least=1, most=MAX_PARTS))


def _assistant() -> Schema:
    role = Role.ASSISTANT
    refusal = closed({"type": const("refusal"), "refusal": text(role)}, "type", "refusal")
    parts = array(either(_text_part(role), refusal), least=1, most=MAX_PARTS)
    call = closed({"name": label(role, pattern=_FUNCTION_NAME), "arguments": text(role, Use.ARGUMENTS)}, "name", "arguments")
    calls = array(closed({"id": label(role), "type": const("function"), "function": call}, "id", "type", "function"), most=MAX_TOOLS)
    nothing = settled("empty, dropped", {"type": "null"})
    return closed(
        {
            "role": const("assistant"),
            "content": either({"type": "null"}, text(role), parts),
            "refusal": nullable(text(role)),
            "reasoning_content": nullable(text(role)),
            "name": label(role, longest=64),
            "tool_calls": nullable(calls),
            # What the SDK hands back when an answer is appended to the history as it came.
            "annotations": settled("empty, dropped", {"type": ["array", "null"], "maxItems": 0}),
            "audio": nothing,
            "function_call": nothing,
        },
        "role",
    )


def _messages() -> Schema:
    name = {"user": label(Role.USER, longest=64), "system": label(Role.SYSTEM, longest=64), "tool": label(Role.TOOL, longest=64)}
    user = closed({"role": const("user"), "content": _user_content(), "name": name["user"]}, "role", "content")
    system = closed(
        {"role": enum("system", "developer"), "content": _texts(Role.SYSTEM), "name": name["system"]}, "role", "content"
    )
    tool = closed(
        {"role": const("tool"), "content": _texts(Role.TOOL), "tool_call_id": label(Role.TOOL), "name": name["tool"]},
        "role",
        "content",
        "tool_call_id",
    )
    return array(either(user, _assistant(), system, tool), least=1, most=MAX_MESSAGES)


def _open() -> Schema:
    return {"type": "object", "x-open": {"role": Role.SYSTEM.value}}


def _tools() -> Schema:
    function = closed(
        {
            "name": label(Role.SYSTEM, pattern=_FUNCTION_NAME),
            "description": text(Role.SYSTEM, longest=16_384),
            "parameters": _open(),
            "strict": nullable(BOOLEAN),
        },
        "name",
    )
    return array(closed({"type": const("function"), "function": function}, "type", "function"), most=MAX_TOOLS)


def _tool_choice() -> Schema:
    named = closed({"name": label(Role.SYSTEM, pattern=_FUNCTION_NAME)}, "name")
    one = closed({"type": const("function"), "function": named}, "type", "function")
    allowed = closed({"mode": enum("auto", "required"), "tools": array(one, most=MAX_TOOLS)}, "mode", "tools")
    several = closed({"type": const("allowed_tools"), "allowed_tools": allowed}, "type", "allowed_tools")
    return either(enum("none", "auto", "required"), one, several)


def _response_format() -> Schema:
    described = closed(
        {
            "name": label(Role.SYSTEM, pattern=_FUNCTION_NAME),
            "description": text(Role.SYSTEM, longest=16_384),
            "schema": _open(),
            "strict": nullable(BOOLEAN),
        },
        "name",
    )
    plain = closed({"type": enum("text", "json_object")}, "type")
    return either(plain, closed({"type": const("json_schema"), "json_schema": described}, "type", "json_schema"))


def _web_search() -> Schema:
    place = {name: text(Role.USER, longest=128) for name in ("city", "country", "region", "timezone")}
    where = closed({"type": const("approximate"), "approximate": closed(place)}, "type", "approximate")
    return granted(
        "web_search_options", nullable(closed({"search_context_size": enum("low", "medium", "high"), "user_location": nullable(where)}))
    )


SCHEMA: Schema = closed(
    {
        **SAMPLING,
        "messages": _messages(),
        "max_completion_tokens": nullable(integer(1, MAX_TOKENS)),
        "logprobs": granted("logprobs", nullable(BOOLEAN)),
        "top_logprobs": granted("logprobs", nullable(integer(0, 20))),
        "tools": nullable(_tools()),
        "tool_choice": nullable(_tool_choice()),
        "parallel_tool_calls": nullable(BOOLEAN),
        "response_format": nullable(_response_format()),
        "prediction": nullable(closed({"type": const("content"), "content": _texts(Role.ASSISTANT)}, "type", "content")),
        "reasoning_effort": nullable(enum("none", "minimal", "low", "medium", "high", "xhigh", "max")),
        "verbosity": nullable(enum("low", "medium", "high")),
        "modalities": settled("text is all an answer may hold; dropped", {"enum": [["text"], None]}),
        "web_search_options": _web_search(),
    },
    "messages",
)

_RULES = {
    **RULES,
    "max_completion_tokens": Rule(integer=True),
    "logprobs": Rule(grant="logprobs", neutral=(False,)),
    "top_logprobs": Rule(grant="logprobs", neutral=(0,), integer=True),
    "web_search_options": Rule(grant="web_search_options"),
    "modalities": Rule(drop=True),
}

_ROLES = {
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "tool": Role.TOOL,
}
_CONTENT = Use.CONTENT
_EMPTY = frozenset({"annotations", "audio", "function_call"})  # the schema lets them be empty only
# Fields beyond the messages that hold text; most requests have none of them.
_WITH_TEXT = frozenset({"stop", "tools", "tool_choice", "response_format", "prediction", "metadata", "web_search_options"})


def name_texts(draft: Draft) -> None:
    messages = draft.body["messages"]
    text_at = draft.text
    untidy = False
    for index, message in enumerate(messages):
        role = _ROLES[message["role"]]
        content = message.get("content")
        if type(content) is str:
            text_at(("messages", index, "content"), content, role, _CONTENT)
        elif content is not None:
            _name_parts(draft, content, ("messages", index, "content"), role)
        if len(message) > 2 or content is None:
            _name_rest(draft, message, ("messages", index), role)
            untidy = untidy or None in message.values() or not _EMPTY.isdisjoint(message)
    if untidy:
        draft.body["messages"] = [_tidy(message) for message in messages]
    draft.extra_tokens += TOKENS_PER_MESSAGE * len(messages) + TOKENS_PER_REPLY
    if not _WITH_TEXT.isdisjoint(draft.body):
        _name_options(draft)


def _tidy(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message without what is empty; null content stays, since its absence may be read otherwise."""
    return {key: value for key, value in message.items() if key == "content" or (value is not None and key not in _EMPTY)}


def _name_parts(draft: Draft, parts: list[dict[str, Any]], path: Path, role: Role) -> None:
    for index, part in enumerate(parts):
        at = (*path, index)
        kind = part["type"]
        if kind in {"text", "refusal"}:
            draft.text((*at, kind), part[kind], role, Use.CONTENT)
        elif kind == "image_url":
            _check_image(draft, part["image_url"]["url"], (*at, "image_url", "url"))
        else:
            body = part[kind]
            field = "data" if kind == "input_audio" else "file_data"
            _check_blob(draft, body[field], (*at, kind, field))
            draft.text((*at, kind, "filename"), body.get("filename", ""), role, Use.LABEL)


def _check_image(draft: Draft, url: str, path: Path) -> None:
    if url.startswith("data:"):
        draft.release_uninspected(path)
        if not is_data_image(url):
            raise refuse(path, draft.names, "the image is not the PNG, JPEG, GIF or WebP that its data URL names")
    else:
        draft.need("remote_media", path, "policy does not let the backend fetch media; send the image as a data URL")
        draft.release_uninspected(path)
        if len(url) > MAX_URL or not is_remote(url):
            raise refuse(path, draft.names, "the URL must be https to a public host name")
        draft.text(path, url, Role.USER, Use.LABEL)
    draft.extra_tokens += TOKENS_PER_IMAGE


def _check_blob(draft: Draft, data: str, path: Path) -> None:
    draft.release_uninspected(path)
    # OpenAI's clients send files as a data URL, audio bare.
    head, comma, rest = data.partition(";base64,")
    if not is_base64(rest if comma and head.startswith("data:") and len(head) < 128 else data):
        raise refuse(path, draft.names, "the data must be base64")
    draft.extra_tokens += len(data) // 4


def _name_rest(draft: Draft, message: dict[str, Any], path: Path, role: Role) -> None:
    for field in ("name", "tool_call_id"):
        draft.text((*path, field), message.get(field, ""), role, Use.LABEL)
    if role is not Role.ASSISTANT:
        return
    calls = message.get("tool_calls")
    if message.get("content") is None and not calls and not message.get("refusal"):
        raise refuse((*path, "content"), draft.names, "an assistant message needs content, a refusal or tool calls")
    for field in ("refusal", "reasoning_content"):
        draft.text((*path, field), message.get(field) or "", role, Use.CONTENT)
    for index, call in enumerate(calls or ()):
        at = (*path, "tool_calls", index)
        function = call["function"]
        draft.text((*at, "id"), call["id"], role, Use.LABEL)
        draft.text((*at, "function", "name"), function["name"], role, Use.LABEL)
        arguments = function["arguments"]
        if arguments:
            _check_arguments(draft, arguments, (*at, "function", "arguments"))
            draft.text((*at, "function", "arguments"), arguments, role, Use.ARGUMENTS)


def _check_arguments(draft: Draft, arguments: str, path: Path) -> None:
    # SECURITY: the model reads this text as it stands; with a key twice, or another trick of spelling, an inspector that parses
    # it would read something else.
    try:
        strict_json.parse_document(arguments)
    except Refusal as fault:
        raise refuse(path, draft.names, "the arguments must be a strict JSON document") from fault


def _name_options(draft: Draft) -> None:
    body = draft.body
    name_stop(draft)
    for index, tool in enumerate(body.get("tools", ())):
        _name_function(draft, tool["function"], ("tools", index, "function"), "parameters")
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        name_document(draft, choice, ("tool_choice",), Role.SYSTEM)
    described = body.get("response_format", {}).get("json_schema")
    if described:
        _name_function(draft, described, ("response_format", "json_schema"), "schema")
    prediction = body.get("prediction")
    if prediction:
        content, at = prediction["content"], ("prediction", "content")
        if isinstance(content, str):
            draft.text(at, content, Role.ASSISTANT, Use.CONTENT)
        else:
            _name_parts(draft, content, at, Role.ASSISTANT)
    name_metadata(draft)
    where = (body.get("web_search_options") or {}).get("user_location")
    for field, place in (where or {}).get("approximate", {}).items():
        draft.text(("web_search_options", "user_location", "approximate", field), place, Role.USER, Use.CONTENT)


def _name_function(draft: Draft, function: dict[str, Any], path: Path, document: str) -> None:
    draft.text((*path, "name"), function["name"], Role.SYSTEM, Use.LABEL)
    draft.text((*path, "description"), function.get("description", ""), Role.SYSTEM, Use.CONTENT)
    if document in function:
        name_document(draft, function[document], (*path, document), Role.SYSTEM)


def limit(draft: Draft, obligations: Obligations) -> int:
    body = draft.body
    if "max_tokens" in body and "max_completion_tokens" in body:
        raise refuse(("max_tokens",), draft.names, "give max_completion_tokens or max_tokens, not both")
    field = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
    ceiling = settle_limit(draft, field, obligations)
    return ceiling * int(body.get("n", 1))


SPEC = declare(Operation.CHAT, SCHEMA, name_texts=name_texts, limit=limit, rules=_RULES)
