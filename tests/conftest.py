"""One real quickstart process a session for every test that asks for it, found by the text it prints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_house import House, end, launch, wait_ready


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    running = launch(tmp_path_factory.mktemp("house") / "state", "--no-ner")
    try:
        wait_ready(running)
        yield running
    finally:
        end(running)
