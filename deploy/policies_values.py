"""How does a policy set get into the chart's values? Prints it as a values file; what the gateway would refuse to read is refused here.

    python deploy/policies_values.py policies policies.invariants.toml > policies.values.json

The set goes whole, its own tests too: the gateway runs them before it serves a set, models that only tests declare must stay
declared, and the digest that audit records name is the one of the set that was reviewed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gateway.policy.faults import PolicyFaults
from gateway.policy.files import read_files

MAX_BYTES = 900_000  # of a ConfigMap's 1 MiB, leaving room for its keys


def policy_values(directory: Path, invariants: Path | None) -> dict[str, object]:
    """Return the values. Raises `PolicyFaults`, `OSError`, and `ValueError` for a set that no ConfigMap can hold."""
    files = {name: data.decode("utf-8") for name, data in read_files(directory).items()}
    if sum(len(name) + len(content.encode()) for name, content in files.items()) > MAX_BYTES:
        raise ValueError("the set is too large for a ConfigMap: ship it as an image and give `policies.image`")
    return {"policies": {"files": files, "invariants": invariants.read_text(encoding="utf-8") if invariants is not None else ""}}


if __name__ == "__main__":
    try:
        print(json.dumps(policy_values(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None), indent=1))
    except (PolicyFaults, OSError, ValueError) as fault:
        sys.exit(str(fault))
