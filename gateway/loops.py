"""Which event loop do servers run on? uvloop where the platform has it."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable


def factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a maker of event loops."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop
    maker: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return maker
