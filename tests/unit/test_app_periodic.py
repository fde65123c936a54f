"""What is done every second goes on being done: a full log neither silences the summary of floods nor loses what was counted."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from gateway.app import Application, Summary
from gateway.ports import LogUnavailable


class FullAtFirst:
    healthy = True

    def __init__(self) -> None:
        self.full = True
        self.records: list[dict[str, Any]] = []

    def append(self, record: bytes, *, soon: bool = True) -> None:
        if self.full:
            raise LogUnavailable("the audit queue is full")
        self.records.append(json.loads(record))


def application(log: FullAtFirst) -> Application:
    made = Application.__new__(Application)
    made.settings = SimpleNamespace(server=SimpleNamespace(instance="i"))  # type: ignore[assignment]
    made.log = log  # type: ignore[assignment]
    made._summary = Summary()
    return made


async def test_a_full_log_delays_the_summary_and_does_not_end_it() -> None:
    log = FullAtFirst()
    made = application(log)
    made._summary.count("invalid_token")
    task = asyncio.create_task(made._every(0.001, made._summarise))
    await asyncio.sleep(0.02)
    made._summary.count("invalid_token")
    log.full = False
    await asyncio.sleep(0.05)
    task.cancel()
    assert [record["counts"] for record in log.records] == [{"invalid_token": 2}]


async def test_work_that_fails_is_done_again() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise OSError("for now")

    task = asyncio.create_task(application(FullAtFirst())._every(0.001, work))
    await asyncio.sleep(0.05)
    task.cancel()
    assert len(calls) > 1
