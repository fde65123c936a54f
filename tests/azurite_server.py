"""A real blob service for tests: Azurite, where it is installed. One process, on a port and in a folder of its own.

Found by `GATEWAY_AZURITE` (the path of `azurite-blob`), in .emulators, where `make setup-emulators` puts it, or on PATH.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from programs import absent

ACCOUNT = "gatewaytest"
INSTALLED = Path(__file__).resolve().parents[1] / ".emulators/node_modules/.bin/azurite-blob"


def find_azurite() -> str | None:
    """Return the azurite-blob command, None where there is none."""
    given = os.environ.get("GATEWAY_AZURITE")
    if given:
        return given if Path(given).exists() else None
    return str(INSTALLED) if INSTALLED.exists() else shutil.which("azurite-blob")


class AzuriteServer:
    """A blob service that can be killed and brought back with what it held."""

    def __init__(self, directory: Path) -> None:
        binary = find_azurite()
        if binary is None:
            absent("azurite-blob is not installed: make setup-emulators (needs npm), set GATEWAY_AZURITE or put it on PATH")
        self._binary = binary
        self._directory = directory
        self._key = base64.b64encode(os.urandom(32)).decode()  # made for this run alone
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def connection(self) -> str:
        host = f"http://127.0.0.1:{self.port}/{ACCOUNT}"
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={self._key};BlobEndpoint={host};"

    def start(self) -> None:
        command = [self._binary, "--silent", "--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", str(self._directory)]
        command += ["--skipApiVersionCheck", "--disableTelemetry"]
        environment = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{self._key}"}
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        end_s = time.monotonic() + 30
        while time.monotonic() < end_s:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise AssertionError("azurite did not listen within 30 s")

    def freeze(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
            self._process = None
