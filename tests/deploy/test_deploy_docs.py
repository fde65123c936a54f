"""Do the commands of docs/deploy-aks.md do what the page says, as far as they can without a cluster?

`gateway`, `python` and `helm lint` and `template` run as they stand, in a folder with the page's own values files; `helm upgrade --install`
runs as `helm template`, with the same files and flags. Everything else is parsed by the shell and not run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_tools import BESIDE, ROOT, of_kind, pod_specs, program

from gateway.assembly import route_facts
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
    # The reader's `python` and `gateway` are the product's own; beside helm lies another Python, which knows nothing of it.
    path = os.pathsep.join([str(Path(sys.executable).parent), str(Path(program("helm")).parent), str(BESIDE), os.environ.get("PATH", "")])
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


def mounted(found: list[dict[str, Any]], name: str, folder: Path) -> Path:
    """Lay a volume's ConfigMap out as the kubelet does: files in a folder of the day, `..data` and the first names linked to it."""
    spec = pod_specs(found)[0]
    volume = next(v["configMap"] for v in spec["volumes"] if v["name"] == name)
    (data,) = [m["data"] for m in of_kind(found, "ConfigMap") if m["metadata"]["name"] == volume["name"]]
    day = folder / "..2026_09_21"
    for item in volume.get("items") or [{"key": key, "path": key} for key in data]:
        (day / item["path"]).parent.mkdir(parents=True, exist_ok=True)
        (day / item["path"]).write_text(data[item["key"]], encoding="utf-8")
    (folder / "..data").symlink_to(day.name)
    for entry in day.iterdir():
        (folder / entry.name).symlink_to(f"..data/{entry.name}")
    return folder


@pytest.mark.parametrize("mode", ["ingress", "sidecar"])
def test_the_page_leads_to_a_policy_set_that_the_pod_serves(folder: Path, policies: Path, mode: str, tmp_path: Path) -> None:
    """What the pod does at its start: the whole set, under the invariants, with the models of the page's own settings."""
    said = shell(folder, f"helm template x deploy/helm/secure-inference-gateway -n a -f {mode}.values.yaml -f {policies.name}")
    found = [m for m in yaml.safe_load_all(said) if m]
    for part in ("set", "config"):
        (tmp_path / part).mkdir()
    config = mounted(found, "gateway-settings", tmp_path / "config")
    settings = load(config / "gateway.toml", {**CLIENT, "AZURE_FEDERATED_TOKEN_FILE": "/token"} if mode == "ingress" else {})
    invariants = config / Path(settings.policies.invariants or "").name
    assert invariants.read_bytes() == (ROOT / "policies.invariants.toml").read_bytes()
    served = load_policies(mounted(found, "gateway-policies", tmp_path / "set"), invariants=invariants, routes=route_facts(settings))
    reviewed = load_policies(ROOT / "policies", invariants=ROOT / "policies.invariants.toml", routes=None)
    # The digest that records name is the one of the set that was reviewed and tested.
    assert served.digest == reviewed.digest and len(served.policies) > 5


def test_a_set_that_no_configmap_holds_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "blocklists").mkdir(parents=True)
    for at in range(2):
        (folder / f"blocklists/{at}.txt").write_text("word\n" * 100_000, encoding="utf-8")
    command = [sys.executable, ROOT / "deploy/policies_values.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "too large for a ConfigMap" in done.stderr and done.stdout == ""
