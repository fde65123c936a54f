"""Log lines: one JSON object each, no message of an error, no way to forge a line."""

from __future__ import annotations

import json
import logging

from gateway.telemetry.logs import JsonFormatter, place


def line(message: str, error: BaseException | None = None, **extra: object) -> str:
    info = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord("gateway.x", logging.ERROR, "f.py", 1, message, None, info)
    vars(record).update(extra)
    return JsonFormatter().format(record)


def failed() -> ValueError:
    try:
        raise ValueError("the secret prompt")
    except ValueError as error:
        return error


def test_one_object_a_line() -> None:
    text = line("one\r\ntwo\x1b[31m", request_id="r-1")
    assert "\n" not in text and "\x1b" not in text
    fields = json.loads(text)
    assert fields["event"].startswith("one") and fields["request_id"] == "r-1" and fields["level"] == "error"
    assert fields["time"].endswith("+00:00")


def test_an_error_is_named_by_type_and_place_alone() -> None:
    text = line("failed", failed())
    assert "secret" not in text and "Traceback" not in text
    assert json.loads(text)["error"].startswith("ValueError at failed:")


def test_place_without_traceback() -> None:
    assert place(ValueError("the secret prompt")) == "ValueError"


def test_what_json_cannot_hold_becomes_text() -> None:
    assert json.loads(line("x", path=logging.INFO, thing=object))["thing"] == "<class 'object'>"
