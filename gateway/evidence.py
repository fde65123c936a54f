"""What has been proven about a request so far: one frozen value a step, each the argument the next step needs.

No behaviour, no I/O, no defaults that grant. A step that was skipped cannot be faked, because its value is what the next
signature asks for (`gateway/pipeline.py`). Nothing here holds the caller's credential, only its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec


class Operation(StrEnum):
    """What a request does, whichever of the path dialects it came by. The value is the name in records and metrics."""

    CHAT = "chat.completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODERATIONS = "moderations"
    MODELS_LIST = "models.list"
    MODELS_GET = "models.get"
    INFER = "infer"  # Open Inference Protocol: POST /v2/models/{model}/infer
    SCORE = "score"  # plain JSON: POST /models/{route}/score


class Dialect(StrEnum):
    """Which client convention the path belongs to; decides details of answers (deployment paths copy the model)."""

    OPENAI = "openai"  # /v1/... and /openai/v1/...
    AZURE = "azure"  # /openai/deployments/{deployment}/... and /openai/...
    PLAIN = "plain"


class SubjectKind(StrEnum):
    USER = "user"
    APPLICATION = "application"
    SERVICE_ACCOUNT = "service_account"
    KEY = "key"


class Role(StrEnum):
    """Who is speaking in an inspected text. `DOCUMENT` is anything the model reads that no party of the conversation wrote."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"
    DOCUMENT = "document"


class Use(StrEnum):
    """What an inspected text is for, which decides what a finding may do to it."""

    CONTENT = "content"  # prose: a span may be rewritten
    LABEL = "label"  # names, ids, keys, enum values: inspected, never rewritten; a finding that asks for redaction refuses
    ARGUMENTS = "arguments"  # a JSON document inside a string: its string values are rewritten, its JSON stays valid


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class StreamMode(StrEnum):
    """When a streamed answer's text may leave: `strict` after all of it was judged, `window` behind a moving hold-back, `async` at once."""

    STRICT = "strict"
    WINDOW = "window"
    ASYNC = "async"  # inspection runs behind and ends the stream: what it ends it for may have been shown


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asking, verified. `subject_id` is the raw stable identity: it enters records only as an HMAC."""

    tenant: str  # id of the [[tenants]] entry that matched exactly; part of every key downstream
    issuer: str  # `iss` as configured, or "key" for gateway keys
    subject_id: str  # Entra: "{tid}/{oid}"; else `sub`; service accounts: "{namespace}/{name}"; keys: the key's id
    kind: SubjectKind
    app_roles: frozenset[str]  # raw `roles` claim; the policy set maps these to gateway roles
    groups: frozenset[str]
    scopes: frozenset[str]
    application: str  # `azp` / `appid` / `client_id`, "" where the token names none
    token_digest: bytes  # SHA-256 of the whole credential
    token_id: str  # `uti` or `jti`, "" where absent
    issued_at_s: int
    expires_at_s: int
    auth_context: frozenset[str] = frozenset()  # `acrs`
    guest: bool = False
    groups_overage: bool = False  # the groups did not fit into the token: `groups` is empty, and a `forbid` on one cannot match
    claims_challenges: bool = False  # the client can answer a claims challenge with a better token
    auth_methods: frozenset[str] = frozenset()  # `amr`: how the person signed in
    client_auth: str = ""  # how the calling application proved itself: public, secret, certificate; "" where the token does not say
    device: bool = False  # signed in from a device the directory knows
    sign_in_state: frozenset[str] = frozenset()  # what the directory knows of that sign-in: inknownntwk, dvc_mngd, dvc_cmp, ...
    sign_in_address: str = ""  # IP address the person signed in from; never recorded


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, bounded and strictly parsed, not yet validated. `body` is our own copy; client bytes are gone."""

    operation: Operation
    dialect: Dialect
    model: str  # the client-facing name: path deployment where there is one, else the body's `model`
    body: dict[str, Any]
    body_bytes: int
    stream: bool
    peer: str  # IP address of the authenticated peer, "" on a unix socket


class Obligations(msgspec.Struct, frozen=True, kw_only=True):
    """What a permit demands, merged over every permit that applied: the strictest wins (ints: least; grants: see `policy`)."""

    profile: str  # content profile by name in content.toml
    tier: str  # limit tier by name in limits.toml
    output_tokens_cap: int = 1024
    output_tokens_default: int = 256
    grants: frozenset[str] = frozenset()  # "logit_bias", "logprobs", "n", "remote_media", "uninspected", "seed", ...
    regions: frozenset[str] | None = None  # None: any region; else backends outside it are not used
    stream_mode: StreamMode = StreamMode.WINDOW


class Permit(msgspec.Struct, frozen=True, kw_only=True):
    """Policy said yes. `generation` is the policy set it was decided under; the whole exchange stays on it."""

    subject: Subject
    asked: Asked
    route: str  # the route's name in settings; equals `asked.model` today
    roles: frozenset[str]
    policy_ids: tuple[str, ...]
    policy_digest: str  # "sha256:..."
    obligations: Obligations
    generation: Any  # gateway.policy.PolicySet; opaque to everyone but `policy` and `content`


class Segment(msgspec.Struct, frozen=True):
    """One text to inspect and where it lives. `path` addresses it in the body: keys and list indices from the root."""

    path: tuple[str | int, ...]
    text: str
    role: Role
    use: Use


class ValidRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A body that fits its closed schema, with limits injected, and every text in it named."""

    permit: Permit
    body: dict[str, Any]
    segments: tuple[Segment, ...]
    stream: bool
    include_usage: bool  # the client asked for the usage chunk; upstream is always asked
    input_tokens: int  # our own count, an upper estimate
    output_tokens: int  # ceiling: cut mid-stream there
    uninspected: tuple[str, ...] = ()  # JSON paths of parts no inspector can read, released under the named grant


class Span(msgspec.Struct, frozen=True, order=True):
    """A detected entity: [start, end) in code points of the original text. `score` is calibrated 0 to 1."""

    start: int
    end: int
    type: str  # Presidio's names: PERSON, EMAIL_ADDRESS, ..., SECRET
    score: float = 1.0
    detector: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What inspection found in one direction of one exchange. Numbers and names only: it is safe to record."""

    entities: Mapping[str, int]  # redacted or found entities by type
    scores: Mapping[str, float]  # moderation heads, 0 to 1: hate sexual violence self_harm harmful attack
    flagged: tuple[str, ...]  # heads, entity types and rule names that made the profile act
    action: str  # "none" | "record" | "redact" | "pseudonymise" | "block"
    detectors: tuple[str, ...]  # "name@version"
    degraded: bool = False
    cached: bool = False


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Capacity held for one exchange until its body has ended. Settled or released by the limiter that granted it."""

    id: str
    keys: tuple[str, ...]
    reserved_tokens: int
    granted_at_s: float  # monotonic
    expires_at_s: float
    limit_requests: int
    remaining_requests: int
    reset_requests_s: float
    limit_tokens: int
    remaining_tokens: int
    reset_tokens_s: float
    degraded: bool = False  # decided by the local fallback, not the shared store


class ScreenedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The only value `forward` accepts: a body that was inspected as it will be sent, already serialised."""

    valid: ValidRequest
    payload: bytes
    verdict: Verdict
    restorer: Any  # gateway.content.pseudonyms.Restorer | None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one exchange. `counted` says the upstream reported none and the numbers are our own."""

    input_tokens: int
    output_tokens: int
    counted: bool = False
