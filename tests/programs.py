"""What does a test do without a program it needs? Skip, saying so; fail where the environment promises that everything is there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def absent(why: str) -> NoReturn:
    """Skip with `why`, or fail with it under `GATEWAY_TOOLS=required`: nothing that was meant to run is left out in silence."""
    if os.environ.get("GATEWAY_TOOLS") == "required":
        pytest.fail(f"GATEWAY_TOOLS=required: {why}", pytrace=False)
    pytest.skip(why)
