"""The ops port tells a kubelet a status and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.http.ops import network_check, ops_app


async def get(path: str, peer: str, *, ready: bool = True, token: str = "") -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def permitted(request: Any, action: str) -> bool:
        return request.headers["authorization"] == "Bearer good" and action == "status:read"

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
        "client": (peer, 1),
        "root_path": "", "scheme": "http", "server": ("x", 1), "http_version": "1.1",
    }  # fmt: skip
    app = ops_app(lambda: {"keys": True, "secret-backend": ready}, lambda: b"gateway_x 1\n", ["10.0.0.0/8"], permitted)
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent)


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
async def test_a_kubelet_gets_a_status(ready: bool, status: int) -> None:
    got, body = await get("/readyz", "192.0.2.1", ready=ready)
    assert got == status and b"secret-backend" not in body
    assert (await get("/healthz", "192.0.2.1", ready=ready))[0] == 200


async def test_insiders_get_names() -> None:
    for peer, token in (("10.1.2.3", ""), ("192.0.2.1", "good")):
        status, body = await get("/readyz", peer, ready=False, token=token)
        assert status == 503 and b"secret-backend" in body
        assert (await get("/metrics", peer, token=token)) == (200, b"gateway_x 1\n")


@pytest.mark.parametrize("token", ["", "bad"])
async def test_metrics_are_for_insiders(token: str) -> None:
    status, body = await get("/metrics", "192.0.2.1", token=token)
    assert status == 401 and b"gateway_x" not in body


async def test_there_is_no_other_path() -> None:
    assert (await get("/v1/models", "10.1.2.3"))[0] == 404


@pytest.mark.parametrize(
    ("address", "inside"),
    [("10.0.0.1", True), ("11.0.0.1", False), ("", False), ("x", False), ("::ffff:10.0.0.1", False), ("fd00::1", True)],
)
def test_networks(address: str, inside: bool) -> None:
    assert network_check(["10.0.0.0/8", "fd00::/8"])(address) is inside
