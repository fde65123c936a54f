"""An Entra-shaped authority, a metadata service and a Graph of our own on loopback, for real SDKs.

with AzureAuthority() as azure:            # threads of its own; `azure.url` is TLS, `azure.metadata_url` plain
    azure.faults.append("unavailable")     # what the next request for a token meets; `azure.fault` meets them all

It verifies what it is sent as Entra would: the client's secret or the signature of its assertion, and for on-behalf-of the
caller's token, which must be its own, for the gateway, and unexpired. Tokens are real RS256 JWTs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import tempfile
import threading
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from issuer_fixture import public_jwk, rsa_key

TENANT = "11111111-2222-4333-8444-555555555555"
OTHER_TENANT = "22222222-2222-4333-8444-555555555555"
GATEWAY = "77777777-6666-4555-8444-333333333333"  # client id of the gateway, and the audience of its callers
CALLING_APP = "99999999-8888-4777-8666-555555555555"
ALICE = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
BOB = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee"
USER_ASSIGNED = "12345678-0000-4000-8000-000000000000"
SCOPE = "https://cognitiveservices.azure.com/.default"
EXCHANGE_AUDIENCE = "api://AzureADTokenExchange"
DEMANDED = '{"access_token":{"acrs":{"essential":true,"value":"c2"}}}'
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_OBO = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def made_secret() -> str:
    return "planted-" + uuid.uuid4().hex


class AzureAuthority:
    def __init__(self) -> None:
        self.key = rsa_key("authority")
        self.secrets = {GATEWAY: made_secret()}
        self.certificates: dict[str, x509.Certificate] = {}
        self.federated_key = rsa_key("cluster")
        self.fault = ""
        self.faults: list[str] = []
        self.delay_s = 0.0
        self.life_s = 3600
        self.refresh_in: int | None = None
        self.conditional: set[str] = set()  # people of whom a second factor is demanded
        self.unconsented: set[str] = set()
        self.groups: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()
        self.asked: list[dict[str, str]] = []  # forms of the token endpoint
        self.issued: list[str] = []
        self.graph_tokens: list[str] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def __enter__(self) -> AzureAuthority:
        self._folder = tempfile.TemporaryDirectory()
        ca = trustme.CA()
        self.ca_file = str(Path(self._folder.name) / "ca.pem")
        ca.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        self._servers = []
        for tls in (context, None):
            server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
            server.daemon_threads = True
            server.handle_error = lambda *_: None  # a client that hangs up is what some tests are about
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            self._servers.append(server)
        self.host = f"localhost:{self._servers[0].server_port}"
        self.url = f"https://{self.host}"
        self.metadata_url = f"http://127.0.0.1:{self._servers[1].server_port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._folder.cleanup()

    # -- what tests prepare -------------------------------------------------------------------------------------------

    def user_token(self, oid: str = ALICE, *, life_s: float = 3600, **claims: Any) -> str:
        """Return a caller's token for the gateway, as Entra v2 issues it."""
        now = int(time.time())
        return self.signed(
            {"aud": GATEWAY, "oid": oid, "sub": f"pairwise-{oid}", "azp": CALLING_APP, "azpacr": "1", "scp": "inference.use"}
            | {"roles": ["analyst"], "iat": now - 5, "nbf": now - 5, "exp": int(now + life_s), "uti": uuid.uuid4().hex}
            | claims
        )

    def signed(self, claims: dict[str, Any]) -> str:
        whole = {"iss": f"{self.url}/{TENANT}/v2.0", "tid": TENANT, "ver": "2.0"} | claims
        return jwt.encode({k: v for k, v in whole.items() if v is not None}, self.key, algorithm="RS256", headers={"kid": "authority-1"})

    def certificate(self, client_id: str = GATEWAY) -> bytes:
        """Register a new certificate for an application; return PEM with its key."""
        key = rsa_key("client-" + uuid.uuid4().hex)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        self.certificates[client_id] = made
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return private + made.public_bytes(serialization.Encoding.PEM)

    def federated(self, *, audience: str = EXCHANGE_AUDIENCE, key: Any = None, serial: str = "") -> str:
        """Return a projected service-account token as the cluster writes it for the exchange."""
        now = int(time.time())
        claims = {"iss": "https://cluster.example", "sub": "system:serviceaccount:gateway:gateway", "aud": [audience], "jti": serial}
        whole = claims | {"iat": now, "exp": now + 3600}
        return jwt.encode(whole, key or self.federated_key, algorithm="RS256", headers={"kid": "cluster"})

    # -- what it answers ----------------------------------------------------------------------------------------------

    def take_fault(self) -> str:
        with self._lock:
            return self.faults.pop(0) if self.faults else self.fault

    def hold(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def issue(self, claims: dict[str, Any], **more: Any) -> dict[str, Any]:
        now = int(time.time())
        token = self.signed(claims | {"iat": now, "nbf": now, "exp": now + self.life_s, "jti": uuid.uuid4().hex})
        with self._lock:
            self.issued.append(token)
        answer = {"token_type": "Bearer", "access_token": token, "expires_in": self.life_s, **more}
        return answer if self.refresh_in is None else answer | {"refresh_in": self.refresh_in}

    def token(self, form: dict[str, str], url: str) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.asked.append(form)
            self.counts[form.get("grant_type", "")] += 1
        client = form.get("client_id", "")
        proof = self.proof(form, client, url)
        if not proof:
            return 401, refusal("invalid_client", 7000215, "a long description that names the client and its secret")
        audience = form.get("scope", "").split(" ")[0].removesuffix("/.default")
        if form.get("grant_type") == "client_credentials":
            return 200, self.issue({"aud": audience, "azp": client, "idtyp": "app", "oid": client, "sub": client, "azpacr": proof})
        if form.get("grant_type") == _OBO and form.get("requested_token_use") == "on_behalf_of":
            return self.on_behalf(form, audience, client)
        return 400, refusal("unsupported_grant_type", 70003, "no such grant")

    def proof(self, form: dict[str, str], client: str, url: str) -> str:
        if form.get("client_assertion_type") != _ASSERTION:
            return "1" if client in self.secrets and form.get("client_secret") == self.secrets[client] else ""
        text = form.get("client_assertion", "")
        try:
            header = jwt.get_unverified_header(text)
            if header.get("kid") == "cluster":
                jwt.decode(text, self.federated_key.public_key(), algorithms=["RS256"], audience=EXCHANGE_AUDIENCE)
                return "2"
            known = self.certificates[client]
            thumbprint = base64.urlsafe_b64encode(known.fingerprint(hashes.SHA256())).rstrip(b"=").decode()
            if header.get("x5t#S256", "").rstrip("=") != thumbprint:
                return ""
            claims = jwt.decode(text, known.public_key(), algorithms=["PS256"], audience=url)
            return "2" if claims["iss"] == claims["sub"] == client else ""
        except (jwt.PyJWTError, KeyError):
            return ""

    def on_behalf(self, form: dict[str, str], audience: str, client: str) -> tuple[int, dict[str, Any]]:
        try:
            user = jwt.decode(form.get("assertion", ""), self.key.public_key(), algorithms=["RS256"], audience=client)
        except jwt.ExpiredSignatureError:
            return 400, refusal("invalid_grant", 500133, "the assertion is not within its valid time range")
        except jwt.PyJWTError:
            return 400, refusal("invalid_grant", 50013, "the assertion failed signature validation")
        if user["oid"] in self.conditional:
            return 400, refusal("interaction_required", 50079, "names the person") | {"claims": DEMANDED, "suberror": "basic_action"}
        if user["oid"] in self.unconsented:
            return 400, refusal("invalid_grant", 65001, "names the application") | {"suberror": "consent_required"}
        claims = {"aud": audience, "azp": client, "oid": user["oid"], "sub": f"at-backend-{user['oid']}", "scp": "user_impersonation"}
        return 200, self.issue(claims, scope=f"{audience}/user_impersonation", refresh_token="unwanted-" + uuid.uuid4().hex)

    def metadata(self, query: dict[str, str], metadata_header: str) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.counts["metadata"] += 1
        if metadata_header != "true":
            return 400, {"error": "invalid_request", "error_description": "Required metadata header not specified"}
        client = query.get("client_id", "system-assigned")
        if client not in ("system-assigned", USER_ASSIGNED):
            return 400, {"error": "invalid_request", "error_description": "Identity not found"}
        answer = self.issue({"aud": query.get("resource"), "appid": client, "idtyp": "app", "oid": client, "sub": client})
        return 200, answer | {"expires_in": str(self.life_s), "resource": query.get("resource")}

    def member_objects(self, object_id: str, bearer: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.counts["groups"] += 1
            self.graph_tokens.append(bearer)
        try:
            jwt.decode(bearer, self.key.public_key(), algorithms=["RS256"], audience="https://graph.microsoft.com")
        except jwt.PyJWTError:
            return 401, {"error": {"code": "InvalidAuthenticationToken", "message": "names the person"}}
        if object_id not in self.groups:
            return 404, {"error": {"code": "Request_ResourceNotFound", "message": "names the person"}}
        if body != {"securityEnabledOnly": True}:
            return 400, {"error": {"code": "Request_BadRequest"}}
        return 200, {"@odata.context": "…/$metadata#Collection(Edm.String)", "value": self.groups[object_id]}


def refusal(error: str, code: int, description: str) -> dict[str, Any]:
    return {"error": error, "error_description": f"AADSTS{code}: {description}", "error_codes": [code], "trace_id": str(uuid.uuid4())}


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _handler(azure: AzureAuthority) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, *_: Any) -> None: ...

        def send(self, status: int, body: Any, *headers: tuple[str, str]) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (("content-type", "application/json"), ("content-length", str(len(data))), *headers):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def troubled(self) -> bool:
            if azure.delay_s:
                azure.hold(azure.delay_s)
            fault = azure.take_fault()
            if fault == "hang":
                azure.hold(30)
                self.close_connection = True
            elif fault == "garbage":
                self.send(200, b"<html>planted-garbage</html>")
            elif fault == "list":
                self.send(200, [1, 2])
            elif fault == "split":
                self.send(200, {"access_token": "a\r\nx: planted", "expires_in": 3600, "token_type": "Bearer"})
            elif fault == "endless":
                self.send(200, {"access_token": "abc", "expires_in": 10**12, "token_type": "Bearer"})
            elif fault == "huge":
                self.send(200, b'{"access_token":"' + b"a" * 400_000 + b'","expires_in":3600}')
            elif fault == "redirect":
                self.send(302, {}, ("location", "https://evil.example/"))
            elif fault == "throttled":
                self.send(429, refusal("temporarily_unavailable", 90055, "slow down"), ("retry-after", "7"))
            elif fault == "unavailable":
                self.send(503, refusal("temporarily_unavailable", 90033, "a transient error"))
            elif fault == "invalid_client":
                self.send(401, refusal("invalid_client", 7000215, "planted-description"))
            return bool(fault)

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            steps = parts.path.strip("/").split("/")
            query = {k: v[0] for k, v in parse_qs(parts.query).items()}
            if parts.path == "/metadata/identity/oauth2/token":
                if not self.troubled():
                    self.send(*azure.metadata(query, self.headers.get("Metadata", "")))
            elif parts.path.endswith("/.well-known/openid-configuration"):
                azure.counts["discovery"] += 1
                if azure.fault == "discovery":
                    self.send(503, {})
                    return
                base = f"{azure.url}/{steps[0]}"
                tokens = "https://evil.example/token" if azure.fault == "elsewhere" else f"{base}/oauth2/v2.0/token"
                issuer = f"{base}/v2.0" if "v2.0" in steps else f"https://sts.windows.net/{steps[0]}/"
                ends = {"authorization_endpoint": f"{base}/oauth2/v2.0/authorize", "token_endpoint": tokens}
                self.send(200, {"issuer": issuer, "jwks_uri": f"{base}/discovery/v2.0/keys", **ends})
            elif parts.path.endswith("/discovery/v2.0/keys"):
                key = public_jwk(azure.key, "authority-1", issuer=azure.url + "/{tenantid}/v2.0")
                self.send(200, {"keys": [key]})
            else:
                self.send(404, {})

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length", "0")))
            path = urlsplit(self.path).path
            if self.troubled():
                return
            if path.endswith("/oauth2/v2.0/token"):
                form = {k: v[0] for k, v in parse_qs(data.decode()).items()}
                self.send(*azure.token(form, f"{azure.url}{path}"))
            elif path.endswith("/getMemberObjects"):
                bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
                self.send(*azure.member_objects(path.split("/")[-2], bearer, json.loads(data)))
            else:
                self.send(404, {})

    return Handler
