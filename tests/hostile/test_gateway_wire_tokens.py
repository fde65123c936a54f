"""Project Wycheproof's JOSE vectors as credentials of the whole gateway: each is one and the same 401."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from running_house import House
from wire import Line, Reply

ROOT = Path(__file__).resolve().parents[2]
VECTORS = Path(os.environ.get("GATEWAY_CORPORA", ROOT.parent / "shared" / "corpora")) / "wycheproof"
OWN = {"x-request-id", "date"}  # all that may differ from one answer to the next

pytestmark = [
    pytest.mark.corpora,
    pytest.mark.skipif(not VECTORS.is_dir(), reason=f"Wycheproof vectors are not at {VECTORS} (set GATEWAY_CORPORA)"),
]


def presented() -> list[str]:
    """The 615 signed and encrypted tokens; a JSON serialisation is presented as its text."""
    found: list[Any] = []
    for name in ("signature", "key", "crypto", "encryption"):
        for group in json.loads((VECTORS / f"json_web_{name}_test.json").read_bytes())["testGroups"]:
            for vector in group["tests"]:
                if "jws" in vector or name == "encryption":
                    found.append(vector["jws"] if "jws" in vector else vector["jwe"])
    return [token if isinstance(token, str) else json.dumps(token) for token in found]


def ask_all(port: int, tokens: list[str], path: str = "/v1/models") -> list[Reply]:
    line = Line(port)
    try:
        return [line.ask(path, authorization=f"Bearer {token}") for token in tokens]
    finally:
        line.close()


def test_615_vectors_are_one_and_the_same_401(house: House) -> None:
    tokens = presented()
    assert len(tokens) == 615
    started_s = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        replies = [r for batch in pool.map(lambda at: ask_all(house.data, tokens[at::4]), range(4)) for r in batch]
    assert time.monotonic() - started_s < 15
    assert {r.status for r in replies} == {401}
    assert len({r.body for r in replies}) == 1
    assert len({frozenset((k, v) for k, v in r.headers.items() if k not in OWN) for r in replies}) == 1
    assert len({r.request_id for r in replies}) == 615
    assert replies[0].code == "invalid_token"
    assert replies[0].headers["www-authenticate"] == "Bearer"
    assert "x-audit-index" not in replies[0].headers


def test_a_rejected_token_looks_the_same_on_every_path_and_with_every_flaw(house: House) -> None:
    good = house.token("developer")
    head, claims, signature = good.split(".")
    flawed = [
        "", "a", "a.b.c", head, f"{head}.{claims}", f"{head}.{claims}.", f"{head}.{claims}.{signature[:-4]}AAAA", f"{good}.x",
        f"{good} ", f"{good}=", f"eyJhbGciOiJub25lIn0.{claims}.", f"{head}.{claims[:-2]}.{signature}", "\xe9" * 20,
    ]  # fmt: skip
    line = Line(house.data)
    replies = [
        line.ask(path, authorization=f"Bearer {token}") for token in flawed if token != f"{good} " for path in ("/v1/models", "/nowhere")
    ]
    replies += [line.ask("/v1/models"), line.ask("/v1/models", authorization=good), line.ask("/v1/models", authorization=f"Basic {good}")]
    line.close()
    assert {(r.status, r.body) for r in replies} == {(401, replies[0].body)}
