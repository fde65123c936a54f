"""The development issuer is verified exactly like any other, and serves no network."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvicorn
from issuer_fixture import FakeClock, bearer

from gateway.identity.authenticate import Authenticator
from gateway.identity.issuers import IssuerConfig, IssuerKind, trust
from gateway.identity.keyset import KeySets
from gateway.identity.subject import TenantRule, Tenants
from gateway.providers.local.documents import HttpsDocuments
from gateway.quickstart import token_command
from gateway.quickstart.issuer import AUDIENCE, DIRECTORY_ID, IDENTITIES, DevelopmentIssuer, NotLoopback, require_loopback, write_tokens
from gateway.refusals import Refusal

NOW = 1_800_000_000


async def post(port: int, path: str, form: dict[str, str] | bytes, authorization: str = "") -> tuple[int, dict[str, object]]:
    body = form if isinstance(form, bytes) else urlencode(form).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    extra = f"authorization: {authorization}\r\n" if authorization else ""
    writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\n{extra}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.transport.abort()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_whole_way_over_the_wire() -> None:
    """Discovery, keys, token, verification, rotation and withdrawal through real sockets."""
    issuer = DevelopmentIssuer("http://127.0.0.1:1", clock=lambda: NOW)
    server = uvicorn.Server(uvicorn.Config(issuer.app(), host="127.0.0.1", port=0, log_level="error", ws="none", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    issuer.issuer = f"http://127.0.0.1:{port}"
    trusted = trust([IssuerConfig(name="dev", kind=IssuerKind.DEVELOPMENT, issuer=issuer.issuer, audiences=(AUDIENCE,))])
    clock = FakeClock()
    keysets = KeySets(trusted, HttpsDocuments(), clock)
    try:
        assert await keysets.refresh() == {issuer.issuer: True}
        authenticator = Authenticator(trusted, keysets, Tenants([TenantRule(tenant="demo", directory_id=DIRECTORY_ID)], trusted))
        status, answer = await post(
            port, "/token", {"grant_type": "client_credentials", "client_id": "analyst", "client_secret": issuer.client_secret("analyst")}
        )
        assert (status, answer["token_type"]) == (200, "Bearer")
        token = str(answer["access_token"])
        subject = await authenticator.authenticate(authenticator.credential(bearer(token)), NOW)
        assert (subject.tenant, subject.app_roles, subject.expires_at_s - subject.issued_at_s) == ("demo", {"analyst"}, 12 * 3600)
        issuer.rotate()
        for one in (token, issuer.mint("operator")):
            assert (await authenticator.authenticate(authenticator.credential(bearer(one)), NOW)).tenant == "demo"
        issuer.withdraw_old_keys()
        await keysets.refresh()
        with pytest.raises(Refusal):
            await authenticator.authenticate(authenticator.credential(bearer(token)), NOW)
        good = {"grant_type": "client_credentials", "client_id": "analyst", "client_secret": issuer.client_secret("analyst")}
        for form, code in [
            (good | {"client_secret": "x"}, 401),
            (good | {"client_id": "root"}, 401),
            (good | {"client_id": "root", "client_secret": issuer.client_secret("outsider")}, 401),
            (good | {"client_id": "operator"}, 401),
            (good | {"grant_type": "password"}, 400),
            (urlencode(good).encode() + b"&client_id=operator", 400),
            (b"\xff\xfe", 400),
            (b"a" * 5000, 413),
        ]:
            assert (await post(port, "/token", form))[0] == code
        assert (await post(port, "/token", good, "Basic !!!"))[0] == 401
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback(host: str) -> None:
    assert require_loopback(host) is None  # it raises for anything else


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "", "example.com", "127.0.0.1.evil.example", "localhost.evil.example"])
def test_nothing_but_loopback(host: str) -> None:
    with pytest.raises(NotLoopback):
        require_loopback(host)
    with pytest.raises(NotLoopback):
        DevelopmentIssuer(f"http://{f'[{host}]' if ':' in host else host}:8400")


def test_says_that_it_is_for_development(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        DevelopmentIssuer("http://127.0.0.1:8400")
    assert "never for production" in caplog.text


def test_keys_survive_a_restart_and_are_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = DevelopmentIssuer("http://127.0.0.1:8400", state=state)
    first.rotate()
    again = DevelopmentIssuer("http://127.0.0.1:8400", state=state)
    assert again.jwks() == first.jwks() and len(again.jwks()["keys"]) == 2
    assert again.client_secret("analyst") == first.client_secret("analyst") != first.client_secret("auditor")
    assert state.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in state.iterdir())
    assert not any({"d", "p", "q"} & set(key) for key in again.jwks()["keys"])


def test_token_files_and_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    issuer = DevelopmentIssuer("http://127.0.0.1:8400", state=tmp_path)
    paths = write_tokens(issuer, tmp_path / "tokens")
    assert set(paths) == set(IDENTITIES) == {"analyst", "developer", "auditor", "operator", "outsider", "loadtest"}
    assert all(path.stat().st_mode & 0o777 == 0o600 and path.read_text().count(".") == 2 for path in paths.values())
    parser = argparse.ArgumentParser()
    token_command.add_arguments(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["token", "analyst", "--state", str(tmp_path), "--issuer", issuer.issuer])
    assert arguments.run(arguments) == 0
    assert capsys.readouterr().out.count(".") == 2
    arguments = parser.parse_args(["token", "analyst", "--state", str(tmp_path / "absent")])
    assert arguments.run(arguments) == 2
    assert not (tmp_path / "absent").exists()
