"""A Key Vault of our own on loopback, over TLS, for the real SDK: challenge first, then bearer tokens, names and versions.

with KeyVaultEmulator() as vault:
    vault.put("redis", "value")            # a new version; returns its id
    vault.faults.append("throttled")       # what the next request meets; `vault.fault` meets them all

The SDK checks that a challenge names the domain its vault lies under. On 127.0.0.1 that domain is written `0.0.1`, so the check is on.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from tls_emulator import Reply, Request, TlsEmulator

TENANT = "11111111-2222-4333-8444-555555555555"


class KeyVaultEmulator(TlsEmulator):
    def __init__(self) -> None:
        super().__init__()
        self.secrets: dict[str, list[dict[str, Any]]] = {}
        self.tokens: set[str] | None = None  # None: any bearer token is taken
        self.resource = ""
        self.challenges = 0
        self.retry_after = "7"

    def put(self, name: str, value: str, *, enabled: bool = True, expires_s: float | None = None) -> str:
        version = uuid.uuid4().hex
        made = {"version": version, "value": value, "enabled": enabled, "expires_s": expires_s}
        with self.lock:
            self.secrets.setdefault(name, []).append(made)
        return version

    def disable(self, name: str) -> None:
        self.secrets[name][-1]["enabled"] = False

    def delete(self, name: str) -> None:
        del self.secrets[name]

    def reads(self) -> int:
        """Requests that showed a token."""
        return sum("authorization" in request.headers for request in self.seen)

    def reply(self, request: Request) -> Reply | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not token or (self.tokens is not None and token not in self.tokens):
            self.challenges += 1
            resource = self.resource or f"https://0.0.1:{self.port}"
            told = f'Bearer authorization="https://login.microsoftonline.com/{TENANT}", resource="{resource}"'
            return Reply(401, refusal("Unauthorized", "names the caller"), [("WWW-Authenticate", told)])
        fault = self.take_fault()
        if fault:
            return self._troubled(fault)
        steps = request.path.strip("/").split("/")
        if steps[0] != "secrets" or len(steps) not in (2, 3) or not request.query.get("api-version"):
            return Reply(400, refusal("BadParameter", "names the request"))
        wanted = steps[2] if len(steps) == 3 else ""
        found = [made for made in self.secrets.get(steps[1], []) if not wanted or made["version"] == wanted]
        if not found:
            return Reply(404, refusal("SecretNotFound", f"names {steps[1]}"))
        return self._bundle(steps[1], found[-1])

    def _bundle(self, name: str, made: dict[str, Any]) -> Reply:
        if not made["enabled"]:
            return Reply(403, refusal("Forbidden", "names the secret", inner="SecretDisabled"))
        attributes = {"enabled": True, "created": int(time.time()), "updated": int(time.time()), "recoveryLevel": "Recoverable"}
        if made["expires_s"] is not None:
            attributes["exp"] = int(made["expires_s"])
        identifier = f"{self.url}/secrets/{name}/{made['version']}"
        return Reply(200, {"value": made["value"], "id": identifier, "attributes": attributes})

    def _troubled(self, fault: str) -> Reply | None:
        if fault == "hang":
            self.hold(30)
            return None
        if fault == "closed":
            return None
        return {
            "throttled": Reply(429, refusal("Throttled", "slow down"), [("Retry-After", self.retry_after)]),
            "busy": Reply(429, refusal("Throttled", "slow down")),
            "unavailable": Reply(503, refusal("ServiceUnavailable", "later")),
            "forbidden": Reply(403, refusal("Forbidden", "names the caller", inner="ForbiddenByRbac")),
            "firewall": Reply(403, refusal("Forbidden", "names the address", inner="ForbiddenByFirewall")),
            "garbage": Reply(200, b"<html>planted-garbage</html>"),
            "list": Reply(200, [1, 2]),
            "empty": Reply(200, {}),
            "binary": Reply(200, b"\xff\xfe\x00planted"),
            "redirect": Reply(302, {}, [("Location", "https://evil.example/secrets/x")]),
        }[fault]


def refusal(code: str, message: str, *, inner: str = "") -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if inner:
        error["innererror"] = {"code": inner}
    return {"error": error}
