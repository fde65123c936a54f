"""Does the image build from the Dockerfile, run as a number without a shell, and serve a request soon enough?

Needs root, buildah and either `GATEWAY_IMAGE_BASE` (a root file system with Python, as tar) or mmdebstrap to make one: no
registry is asked for anything. Skipped, saying so, where one is missing or where it is built by `make image-check`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from programs import absent
from running_house import House
from wire import CHAT, ask, chat

ROOT = Path(__file__).resolve().parents[2]
BASE = "docker.io/library/python:3.13-slim-bookworm"  # what is built stands in under the name the Dockerfile asks for
READY_S = 3.0
STARTS = 3  # a machine that does other work as well is given another chance
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command: str, **more: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(command[:6])}: {done.stdout[-1500:]}{done.stderr[-3000:]}"
    return str(done.stdout)


def index_mounts() -> list[str]:
    """Return volumes that let pip inside reach the package index as it does outside: its settings, certificates, local folders."""
    listing = run(sys.executable, "-m", "pip", "config", "debug") + run(sys.executable, "-m", "pip", "config", "list")
    found = {Path(path) for path in re.findall(r"^\s*(/\S+), exists: True", listing, re.MULTILINE)}
    found |= {Path(path) for path in re.findall(r"'(?:file://)?(/[^' ]+)", listing)}
    found |= {Path(path) for path in re.findall(r" file://(/[^' ]+)", listing)}
    found |= {Path("/etc/resolv.conf"), Path("/etc/hosts")}
    volumes = []
    for path in sorted(one for one in found if one.exists()):
        inside = Path("/etc/pip.conf") if path.name == "pip.conf" else path
        volumes += ["--volume", f"{path}:{inside}:ro"]
    return volumes


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.environ.get("GATEWAY_IMAGE") == "apart":
        pytest.skip("GATEWAY_IMAGE=apart: the image is built by `make image-check`, not beside the other tests")
    given = os.environ.get("GATEWAY_IMAGE_BASE")
    if given:
        return Path(given)
    if os.geteuid() != 0 or shutil.which("buildah") is None:
        absent("the image test needs root and buildah")
    if shutil.which("mmdebstrap") is None:
        absent("the image test needs mmdebstrap or GATEWAY_IMAGE_BASE")
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    mirror = re.search(r"^URIs:\s*(\S+)", sources.read_text(), re.MULTILINE) if sources.is_file() else None
    if mirror is None:
        absent("no Debian mirror is configured in /etc/apt/sources.list.d/debian.sources")
    tar = tmp_path_factory.mktemp("base") / "base.tar"
    run("mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", str(tar), mirror[1])
    return tar


class Builder:
    def __init__(self, folder: Path) -> None:
        probe = self._command(folder / "probe", "overlay")
        made = subprocess.run([*probe, "from", "scratch"], capture_output=True, text=True, check=False)
        mounted = (
            made.returncode == 0
            and subprocess.run([*probe, "mount", made.stdout.strip()], capture_output=True, check=False).returncode == 0
        )
        subprocess.run([*probe, "rm", "--all"], capture_output=True, check=False)
        # vfs copies every layer whole: it takes minutes more, and works where the kernel mounts no overlay.
        self.command = self._command(folder, "overlay" if mounted else "vfs")

    @staticmethod
    def _command(folder: Path, driver: str) -> list[str]:
        return ["buildah", "--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", driver]

    def __call__(self, *arguments: str) -> str:
        return run(*self.command, *arguments, cwd=ROOT).strip()


@pytest.fixture(scope="module")
def built(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Builder, str]]:
    """The image and a mounted container of it."""
    if os.geteuid() != 0 or shutil.which("buildah") is None:
        absent("the image test needs root and buildah")
    folder = tmp_path_factory.mktemp("buildah")
    builder = Builder(folder)
    first = builder("from", "scratch")
    builder("add", "-q", first, str(base), "/")
    builder("commit", "-q", first, BASE)
    builder("rm", first)
    builder("bud", "--isolation", "chroot", "--pull-never", "--format", "docker", *index_mounts(), "-t", "gateway:test", ".")
    container = builder("from", "--pull-never", "gateway:test")
    try:
        yield builder, container
    finally:
        builder("rm", "--all")
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)


def test_it_says_what_it_is_and_runs_as_a_number(built: tuple[Builder, str]) -> None:
    builder, _ = built
    config = json.loads(builder("inspect", "--type", "image", "gateway:test"))["Docker"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["gateway"] and config["Cmd"][0] == "serve"
    assert config["Healthcheck"]["Test"] == ["CMD", "gateway", "health"]
    assert {f"org.opencontainers.image.{name}" for name in ("title", "licenses", "version", "revision")} <= set(config["Labels"])


def test_it_holds_a_bill_of_materials_and_neither_pip_nor_build_tools(built: tuple[Builder, str]) -> None:
    builder, container = built
    root = Path(builder("mount", container))
    bill = json.loads((root / "opt/venv/sbom.cdx.json").read_text())
    names = {one["name"] for one in bill["components"]}
    assert bill["metadata"]["component"]["name"] == "secure-inference-gateway"
    assert {"starlette", "uvicorn", "cryptography", "azure-identity"} <= names and "hatchling" not in names
    assert not list((root / "opt/venv/lib").glob("python3*/site-packages/pip")) and not (root / "src").exists()
    assert not [path for path in (root / "opt/venv").rglob("*") if not path.is_symlink() and path.stat().st_uid != 0]


def test_it_serves_a_request_within_seconds_of_its_start(built: tuple[Builder, str], house: House, tmp_path: Path) -> None:
    builder, container = built
    data, control, ops = 18_733, 18_734, 18_735
    text = (house.state / "gateway.toml").read_text()
    for old, new in (
        (f"127.0.0.1:{house.data}", f"127.0.0.1:{data}"),
        (f"127.0.0.1:{house.control}", f"127.0.0.1:{control}"),
        (f"127.0.0.1:{house.ops}", f"127.0.0.1:{ops}"),
        ('type = "development"', 'type = "oidc"'),
        (str(house.state), "/etc/gateway"),
        ('"/etc/gateway/audit"', '"/var/lib/gateway/audit"'),
    ):
        text = text.replace(old, new)
    text = re.sub(r'(\[policies\]\ndirectory = )"[^"]*"\n(invariants = "[^"]*"\n)?', r'\1"/etc/gateway/policies"' + "\n", text)
    config, state = tmp_path / "config", tmp_path / "audit"
    shutil.copytree(ROOT / "policies", config / "policies")
    (config / "gateway.toml").write_text(text)
    for name in ("audit.key", "pepper"):
        shutil.copy(house.state / name, config / name)
    state.mkdir()
    for path in (tmp_path, config, state, *config.rglob("*")):
        os.chown(path, 10001, 10001)
    command = [*builder.command, "run", "--isolation", "chroot", "--user", "10001:10001"]
    command += ["--volume", f"{config}:/etc/gateway:ro", "--volume", f"{state}:/var/lib/gateway", container, "--"]
    took: list[float] = []
    while not took or (took[-1] > READY_S and len(took) < STARTS):
        with serving(command, tmp_path / "container.log", ops) as took_s:
            took.append(took_s)
            print(f"ready {took_s:.2f} s after the start of the container")
            reply = ask(data, CHAT, chat("echo", "write to jane.roe@example.com"), house.token("developer"))
            assert reply.status == 200 and b"<EMAIL_ADDRESS>" in reply.body
            health = subprocess.run([*command, "gateway", "health", "--address", f"127.0.0.1:{ops}"], check=False, capture_output=True)
            assert health.returncode == 0, health.stderr
    assert min(took) <= READY_S, f"ready after {took}, the start of the container included"
    assert (state / "audit" / "checkpoint").is_file()


@contextlib.contextmanager
def serving(command: list[str], log: Path, ops: int) -> Iterator[float]:
    """Start a container that serves; yield the seconds until it was ready, and end it as a kubelet would."""
    began_s = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "gateway", "serve", "-c", "/etc/gateway/gateway.toml"], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield until_ready(process, log, ops, began_s)
    finally:
        for one in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if one.uids().real == 10001:
                    one.terminate()
        process.wait(30)


def until_ready(process: subprocess.Popen[bytes], log: Path, ops: int, began_s: float) -> float:
    while time.monotonic() < began_s + 60:
        assert process.poll() is None, log.read_text()
        try:
            if ask(ops, "/readyz", method="GET").status == 200:
                return time.monotonic() - began_s
        except OSError:
            time.sleep(0.02)
    raise AssertionError("the container did not become ready")
