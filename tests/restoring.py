"""A whole text with its pseudonyms restored, outside of an event loop."""

from __future__ import annotations

from gateway.content.pseudonyms import Pseudonyms


async def _at_once() -> None:
    return


def restored(pseudonyms: Pseudonyms, text: str) -> str:
    running = pseudonyms.restore(text, _at_once)
    try:
        running.send(None)
    except StopIteration as done:
        return str(done.value)
    raise AssertionError("it waits for something")
