"""Where are the programs that look at the chart, and what does the chart render? Skips or fails where one is absent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from programs import absent

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/secure-inference-gateway"
MODES = ("ingress", "node-isolated", "sidecar")
BESIDE = ROOT / ".venv-deploy/bin"
NAMESPACE = "gateway-system"

Manifest = dict[str, Any]


def program(name: str) -> str:
    """Return the path of a program: `GATEWAY_NAME` in the environment, .venv-deploy/bin, or PATH."""
    given = os.environ.get(f"GATEWAY_{name.upper().replace('-', '_')}")
    candidates = [given] if given else [str(BESIDE / name), shutil.which(name), str(Path(sys.executable).parent / name)]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK) and Path(candidate).is_file():
            return candidate
    absent(f"`{name}` is not installed: make setup-deploy, or say where it is in GATEWAY_{name.upper().replace('-', '_')}")


def run(*command: str | Path, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PATH": f"{BESIDE}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout_s, check=False, env=environ)


def values(mode: str) -> Path:
    return CHART / f"ci/{mode}.yaml"


def template(mode: str, *more: str | Path, chart: Path = CHART, release: str = "main") -> subprocess.CompletedProcess[str]:
    return run(program("helm"), "template", release, chart, "-n", NAMESPACE, "-f", values(mode), *more)


def manifests(mode: str, *more: str | Path) -> list[Manifest]:
    """Return what a mode renders to."""
    done = template(mode, *more)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(found: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in found if manifest["kind"] == kind]


def pod_specs(found: list[Manifest]) -> list[Manifest]:
    """Return the spec of every pod: of a workload's template, or by itself."""
    workloads = [m["spec"]["template"]["spec"] for m in found if m["kind"] in ("StatefulSet", "Deployment")]
    return workloads + [m["spec"] for m in of_kind(found, "Pod")]


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", ()), *spec["containers"]]
