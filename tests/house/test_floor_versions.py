"""Are the parts we lean on new enough? Floors below which an advisory or a missing feature stands, held against the lock."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.+!-]*)", re.MULTILINE)

# name: the lowest version that may be locked, and why
FLOORS = {
    "starlette": (1, 3, 1),  # CVE-2025-62727 and the form-parser denials of service before it
    "pyjwt": (2, 13),  # `crit` and key-confusion fixes
    "httptools": (0, 7),  # llhttp 9.3: strict line ends in chunk framing
    "uvicorn": (0, 40),
    "cryptography": (46,),
    "msgspec": (0, 19),  # recursion limit in the decoder
    "jiter": (0, 10),
    "h11": (0, 16),  # CVE-2025-43859, although the data plane does not speak through it
    "urllib3": (2, 6),  # CVE-2025-66418, CVE-2025-66471
    "requests": (2, 32, 4),  # CVE-2024-47081
    "redis": (5, 3),
}


def locked() -> dict[str, tuple[int, ...]]:
    pins = PIN.findall(LOCK.read_text())
    return {name.lower(): tuple(int(part) for part in re.findall(r"\d+", version)) for name, version in pins}


@pytest.mark.parametrize("name", FLOORS)
def test_the_lock_holds_the_floor(name: str) -> None:
    pins = locked()
    if name not in pins and name in ("urllib3", "requests", "redis"):
        pytest.skip("not among the runtime dependencies")
    assert pins[name] >= FLOORS[name]


def test_everything_is_pinned_with_a_hash() -> None:
    text = LOCK.read_text()
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
    pinned = [block for block in blocks if PIN.match(block)]
    assert len(pinned) == len(locked())
    assert [block.split("\n", 1)[0] for block in pinned if "--hash=sha256:" not in block] == []
    assert "index-url" not in text and "://" not in re.sub(r"(?m)^\s*#.*$", "", text)


@pytest.mark.parametrize("module", ["h11", "requests", "urllib3", "httpx", "spacy", "presidio_analyzer", "pickle5", "jinja2"])
def test_the_data_plane_does_not_import(module: str) -> None:
    """What is not imported cannot be attacked, and the start does not wait for it."""
    code = f"import sys; import gateway.http.server, gateway.http.endpoint, gateway.pipeline; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
