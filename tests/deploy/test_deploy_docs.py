"""Do the commands of docs/deploy-aks.md do what the page says, as far as they can without a cluster?

`gateway`, `python` and `helm lint` and `template` run as they stand, in a folder with the page's own values files; `helm upgrade --install`
runs as `helm template`, with the same files and flags. Everything else is parsed by the shell and not run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chart_tools import BESIDE, ROOT, of_kind, program

from gateway.policy.load import load_policies
from gateway.settings import load

PAGE = (ROOT / "docs/deploy-aks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHELL = [body for language, body in BLOCKS if language == "sh"]
COMMANDS = [line for body in SHELL for line in body.replace("\\\n", " ").splitlines() if line.strip()]
RUN = [line for line in COMMANDS if line.split()[0] in ("helm", "gateway", "python") and not line.startswith("helm test")]
CLIENT = {"AZURE_CLIENT_ID": "00000000-0000-0000-0000-000000000002", "AZURE_TENANT_ID": "00000000-0000-0000-0000-000000000001"}


def test_the_page_has_what_is_looked_for() -> None:
    assert len(RUN) >= 9 and len(SHELL) >= 9
    assert sum(line.startswith("helm upgrade") for line in RUN) == 3
    assert "Key authentication of the backends must be off" in PAGE and "share one network and one identity" in PAGE


@pytest.mark.parametrize("at", range(len(SHELL)))
def test_every_block_is_a_shells(at: int) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("`bash` is not installed")
    done = subprocess.run([bash, "-n"], input=SHELL[at], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's values files beside the repository's chart and policies, as a reader has them."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("deploy", "policies", "policies.invariants.toml"):
        (folder / name).symlink_to(ROOT / name)
    for language, body in BLOCKS:
        if language == "yaml" and (name := re.match(r"# (\S+\.values\.yaml)\n", body)):
            (folder / name[1]).write_text(body, encoding="utf-8")
    assert {path.name for path in folder.glob("*.yaml")} == {"ingress.values.yaml", "sidecar.values.yaml"}
    return folder


def shell(folder: Path, line: str) -> str:
    path = os.pathsep.join([str(Path(program("helm")).parent), str(Path(sys.executable).parent), str(BESIDE), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["bash", "-euc", line], cwd=folder, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, f"{line}: {done.stdout[-800:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def policies(folder: Path) -> Path:
    (line,) = [line for line in RUN if line.startswith("python")]
    shell(folder, line)
    return folder / shlex.split(line)[-1]


@pytest.mark.parametrize("line", [line for line in RUN if not line.startswith("python")])
def test_a_command_runs(folder: Path, policies: Path, line: str, tmp_path: Path) -> None:
    said = shell(folder, line.replace("helm upgrade --install", "helm template"))
    if line.startswith("helm lint"):
        assert "0 chart(s) failed" in said
    if line.startswith(("helm upgrade", "helm template")):
        (settings_text,) = [
            m["data"]["gateway.toml"] for m in of_kind(list(yaml.safe_load_all(said)), "ConfigMap") if "gateway.toml" in m["data"]
        ]
        file = tmp_path / "gateway.toml"
        file.write_text(settings_text, encoding="utf-8")
        assert (
            load(file, {**CLIENT, "AZURE_FEDERATED_TOKEN_FILE": "/token"} if "sidecar" not in line else {}).routes[0].model == "assistant"
        )


def test_the_policy_set_arrives_whole(policies: Path, tmp_path: Path) -> None:
    values = json.loads(policies.read_text(encoding="utf-8"))["policies"]
    for name, content in values["files"].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    arrived, kept = load_policies(tmp_path), load_policies(ROOT / "policies")
    assert {p.id for p in arrived.policies} == {p.id for p in kept.policies}
    assert values["invariants"] == (ROOT / "policies.invariants.toml").read_text(encoding="utf-8")


def test_a_set_that_no_configmap_holds_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "blocklists").mkdir(parents=True)
    for at in range(2):
        (folder / f"blocklists/{at}.txt").write_text("word\n" * 100_000, encoding="utf-8")
    command = [sys.executable, ROOT / "deploy/policies_values.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "too large for a ConfigMap" in done.stderr and done.stdout == ""
