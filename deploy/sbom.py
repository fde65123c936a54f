"""What is in this environment? A CycloneDX 1.6 bill of materials of every installed distribution, on standard output.

Standard library only, so that it runs in an image that holds nothing but the product. Specification: CycloneDX 1.6, package-url.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.metadata import Distribution, distributions


def component(found: Distribution) -> dict[str, object]:
    """Return one distribution as a component; its hash is that of its RECORD, which names a hash for each file."""
    name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
    made: dict[str, object] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{found.version}",
        "name": name,
        "version": found.version,
        "purl": f"pkg:pypi/{name}@{found.version}",
    }
    licence = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    if licence and len(licence) < 80 and "\n" not in licence:
        made["licenses"] = [{"license": {"name": licence}}]
    record = found.read_text("RECORD")
    if record:
        made["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(record.encode()).hexdigest()}]
    return made


def document() -> dict[str, object]:
    components = sorted((component(found) for found in distributions()), key=lambda one: str(one["purl"]))
    own = next((one for one in components if one["name"] == "secure-inference-gateway"), None)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**own, "type": "application"}} if own else {},
        "components": [one for one in components if one is not own],
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1, sort_keys=True)
