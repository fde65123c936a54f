"""Which event loop do servers run on? uvloop where the platform has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

try:
    import uvloop
except ImportError:
    uvloop = None


def factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a maker of event loops."""
    return asyncio.new_event_loop if uvloop is None else uvloop.new_event_loop
