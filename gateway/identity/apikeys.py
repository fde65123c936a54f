"""Is this a gateway key we gave out? Digests only, constant time, off unless a key file is configured.

A key is `gwk_<id>_<secret>`: 80 random bits that name it and 256 that prove it. The file keeps an HMAC-SHA256 of the
secret under a pepper, or its SHA-256 where no pepper is configured (a 256-bit random secret cannot be guessed from it).
The secret is shown once, when it is made, and is in no log, error or file.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

PREFIX: Final = "gwk_"
MAX_KEYS: Final = 10_000
_KEY: Final = re.compile(r"gwk_([a-z2-7]{16})_([A-Za-z0-9_-]{43})")
_ID: Final = re.compile(r"[a-z2-7]{16}")
_NAME: Final = re.compile(r"[!-~]([ -~]{0,62}[!-~])?")
_WORD: Final = re.compile(r"[!-~]{1,128}")
_MAX_FILE: Final = 16 * 1024 * 1024


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the key file. Times are seconds since 1970; 0 means never."""

    id: str
    name: str  # for people: whose key this is, what it is for
    digest: str  # hex
    peppered: bool
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    created_s: int
    expires_s: int = 0
    revoked_s: int = 0


class KeyFileInvalid(ValueError):
    """The key file cannot be used; the message names the line and never holds any of it."""


class KeyRing:
    """The records by id. Immutable, pure."""

    def __init__(self, records: Iterable[KeyRecord], pepper: bytes = b"") -> None:
        self._records = {record.id: record for record in records}
        self._pepper = pepper
        # What an unknown id is compared with; no secret has this digest.
        self._nobody = KeyRecord(id="", name="", digest="00" * 32, peppered=bool(pepper), created_s=0)

    def __len__(self) -> int:
        return len(self._records)

    def verify(self, presented: str, now_s: int) -> KeyRecord | None:
        """Return the record of a key that is known, unexpired and not revoked at `now_s`, else None."""
        shape = _KEY.fullmatch(presented)
        key_id, secret = shape.groups() if shape is not None else ("", "")
        record = self._records.get(key_id, self._nobody)
        # SECURITY: an unknown id, a wrong secret, an expired and a revoked key take the same steps: one digest, one
        # comparison in constant time, and only then the outcome. Ids are not secret, but need not be probed either.
        digest = digest_of(secret, self._pepper if record.peppered else b"")
        matches = hmac.compare_digest(digest, record.digest)
        alive = record.revoked_s == 0 and (record.expires_s == 0 or now_s < record.expires_s)
        return record if matches and alive and record is not self._nobody else None


class ApiKeys:
    """The key file in use. `reload` notices changes made by `gateway key`; a broken file never replaces a good ring."""

    def __init__(self, path: Path, pepper: bytes = b"") -> None:
        """Raises `KeyFileInvalid` or `OSError`: with keys switched on, an unreadable file is no reason to go on without."""
        self._path = path
        self._pepper = pepper
        self._seen = _stamp(path)
        self.ring = KeyRing(load(path), pepper)
        self.healthy = True

    def repepper(self, pepper: bytes) -> None:
        """Use another pepper from now on: keys made under the old one stop. A broken file is told by `healthy`, as in `reload`."""
        self._pepper = pepper
        try:
            self.ring, self.healthy = KeyRing(load(self._path), pepper), True
        except (OSError, KeyFileInvalid):
            self.ring, self.healthy = KeyRing((), pepper), False  # SECURITY: no key rather than keys under a pepper that was replaced

    def reload(self) -> bool:
        """Take up a changed file; return whether the ring was replaced. Call every few seconds: revocation takes that long."""
        try:
            seen = _stamp(self._path)
            if seen == self._seen:
                return False
            self.ring, self._seen, self.healthy = KeyRing(load(self._path), self._pepper), seen, True
        except (OSError, KeyFileInvalid):
            self.healthy = False
            return False
        return True


def digest_of(secret: str, pepper: bytes) -> str:
    data = secret.encode("ascii")
    return (hmac.new(pepper, data, hashlib.sha256) if pepper else hashlib.sha256(data)).hexdigest()


def load(path: Path) -> tuple[KeyRecord, ...]:
    """Return the records of a key file (JSON lines). Raises `KeyFileInvalid`, `OSError`."""
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or mode & 0o022:
            raise KeyFileInvalid("the key file must be a regular file that only its owner can write")
        data = file.read(_MAX_FILE + 1)
    lines = data.splitlines()
    if len(data) > _MAX_FILE or len(lines) > MAX_KEYS:
        raise KeyFileInvalid("the key file is too large")
    records: dict[str, KeyRecord] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = msgspec.json.decode(line, type=KeyRecord)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise KeyFileInvalid(f"line {number} is not a key record") from None
        if fault := _fault(record):
            raise KeyFileInvalid(f"line {number}: {fault}")
        if record.id in records:
            raise KeyFileInvalid(f"line {number}: the id is used twice")
        records[record.id] = record
    return tuple(records.values())


def create(
    path: Path,
    *,
    name: str,
    now_s: int,
    random: bytes,
    roles: Sequence[str] = (),
    scopes: Sequence[str] = (),
    expires_s: int = 0,
    pepper: bytes = b"",
) -> tuple[KeyRecord, str]:
    """Add a key to the file, making it where it is missing; return its record and the key, which is kept nowhere.

    `random` is 42 bytes from the system's generator: 10 for the id, 32 for the secret. Durable on return.
    """
    if len(random) != 42:
        raise ValueError("42 random bytes are needed")
    key_id = base64.b32encode(random[:10]).decode("ascii").lower()
    secret = base64.urlsafe_b64encode(random[10:]).decode("ascii").rstrip("=")
    record = KeyRecord(
        id=key_id,
        name=name,
        digest=digest_of(secret, pepper),
        peppered=bool(pepper),
        roles=tuple(roles),
        scopes=tuple(scopes),
        created_s=now_s,
        expires_s=expires_s,
    )
    if fault := _fault(record):
        raise ValueError(fault)
    with _locked(path):
        records = load(path) if path.exists() else ()
        if any(other.id == key_id for other in records) or len(records) >= MAX_KEYS:
            raise ValueError("the id is taken or the file is full")
        _write(path, (*records, record))
    return record, f"{PREFIX}{key_id}_{secret}"


def revoke(path: Path, key_id: str, now_s: int) -> KeyRecord:
    """Mark a key as revoked and return its record. Idempotent. Raises `KeyError` for an unknown id. Durable on return."""
    with _locked(path):
        records: Mapping[str, KeyRecord] = {record.id: record for record in load(path)}
        record = records[key_id]
        if record.revoked_s == 0:
            record = msgspec.structs.replace(record, revoked_s=now_s)
            _write(path, tuple(record if other.id == key_id else other for other in records.values()))
    return record


def _fault(record: KeyRecord) -> str:
    if _ID.fullmatch(record.id) is None:
        return "the id is malformed"
    if re.fullmatch(r"[0-9a-f]{64}", record.digest) is None:
        return "the digest is malformed"
    if _NAME.fullmatch(record.name) is None:
        return "the name must be 1 to 64 printable characters"
    if any(_WORD.fullmatch(word) is None for word in (*record.roles, *record.scopes)):
        return "roles and scopes must be words of at most 128 characters"
    if record.created_s <= 0 or record.expires_s < 0 or record.revoked_s < 0 or 0 < record.expires_s <= record.created_s:
        return "the times are not in order"
    return ""


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep two commands from losing each other's change. The lock file stays."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, records: Sequence[KeyRecord]) -> None:
    data = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # CRASH: until this line the old file is whole, after it the new one is.
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
