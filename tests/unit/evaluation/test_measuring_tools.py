"""Do the tools that measure cost run, and judge what they saw?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
sys.path.insert(0, str(ROOT))
try:
    from loadtests import soak
    from loadtests.micro import ticker
finally:
    sys.path.remove(str(ROOT))


def said(*words: str) -> dict[str, dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-m", *words, "--json"], cwd=ROOT, env=os.environ | {"PYTHONWARNINGS": "ignore"}, capture_output=True, timeout=60
    )
    assert done.stdout, done.stderr.decode()[-500:]
    result: dict[str, dict[str, float]] = json.loads(done.stdout)
    return result


def test_layers_are_timed() -> None:
    rows = said("loadtests.micro.layers", "--seconds", "0.2", "--only", "patterns")
    assert "patterns, ordinary text" in rows
    assert all(row["rounds"] >= 1 and row["best"] > 0 for row in rows.values())


def test_the_ticker_ticks() -> None:
    result = said("loadtests.micro.ticker", "--seconds", "1", "--no-ner", "--chats", "5", "--large-every", "0.5", "--size", "20000")
    assert result["texts"]["judged"] >= 5
    assert 0 <= result["loaded_ms"]["p50"] <= result["loaded_ms"]["p99.9"] <= result["loaded_ms"]["max"]


def test_figures_of_blocks() -> None:
    blocks = [0.1] * 998 + [5.0, 50.0]
    assert ticker.figures(blocks) == {"p50": 0.1, "p99": 0.1, "p99.9": 50.0, "max": 50.0, "ticks": 1000.0}


@pytest.mark.parametrize(
    ("rss", "grew"),
    [
        ([100, 180, 200, 200, 200, 200, 200, 200, 200, 200, 200], 0.0),
        ([100, 180, 200, 200, 200, 210, 210, 210, 220, 220, 220], 0.1),
    ],
)
def test_growth_is_seen_and_warming_up_is_not_growth(rss: list[int], grew: float) -> None:
    assert soak.growth([(float(at), value) for at, value in enumerate(rss)])[2] == pytest.approx(grew)


def test_gauges_are_read_from_a_scrape() -> None:
    page = (
        b"# TYPE gateway_active_leases gauge\ngateway_active_leases 2.0\ngateway_active_exchanges 0.0\ngateway_active_exchanges_limit 9.0\n"
    )
    assert dict(soak._GAUGE.findall(page)) == {b"gateway_active_leases": b"2.0", b"gateway_active_exchanges": b"0.0"}
