"""Reads a policy directory into memory: bounded, nothing outside it, nothing ignored.

A file whose place or name means nothing to the gateway is a fault, because a rule kept in `forbid.cedar.txt` is a rule that
silently does not apply. Names that begin with a dot are left out. Symbolic links are refused, with one exception: a directory
that a kubelet projects (a ConfigMap volume) is read through its `..data` link, resolved once, so that one swap is one set.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from gateway.policy.faults import Fault, PolicyFaults

MAX_FILES = 512
MAX_FILE_BYTES = 1 << 20
MAX_TOTAL_BYTES = 8 << 20
MAX_DEPTH = 6  # tests/bad/<set>/access/<file> is the deepest that means anything

Files = dict[str, bytes]

_TOP = frozenset({"gateway.cedarschema", "roles.toml", "content.toml", "limits.toml"})
_SUFFIX = {"access": ".cedar", "schemas": ".json", "tests": ".toml", "blocklists": ".txt"}


def is_known(path: str) -> bool:
    """Return whether a file at `path` inside a set means anything."""
    parts = path.split("/")
    if parts[:2] == ["tests", "bad"]:
        inner = "/".join(parts[3:])
        return inner == "expect.toml" or (is_known(inner) and not inner.startswith("tests/bad/"))
    if path in _TOP or path.endswith(".md"):
        return True
    return len(parts) == 2 and path.endswith(_SUFFIX.get(parts[0], "\0"))


def _root(directory: Path) -> Path:
    projected = directory / "..data"
    return (projected if projected.is_symlink() else directory).resolve(strict=True)


def _walk(root: Path, faults: list[Fault]) -> list[tuple[str, os.stat_result]]:
    found: list[tuple[str, os.stat_result]] = []
    todo = [("", 0)]
    while todo:
        prefix, depth = todo.pop()
        with os.scandir(root / prefix) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith("."):
                    continue
                name = prefix + entry.name
                facts = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(facts.st_mode) and depth < MAX_DEPTH:
                    todo.append((name + "/", depth + 1))
                elif not stat.S_ISREG(facts.st_mode):
                    kind = "a symbolic link" if stat.S_ISLNK(facts.st_mode) else "not a plain file"
                    faults.append(Fault(name, 0, f"this is {kind}: a policy set holds plain files only"))
                elif not is_known(name):
                    faults.append(Fault(name, 0, "no file of this name and place belongs to a policy set"))
                elif facts.st_size > MAX_FILE_BYTES:
                    faults.append(Fault(name, 0, f"the file is over {MAX_FILE_BYTES} bytes"))
                else:
                    found.append((name, facts))
                if len(found) > MAX_FILES:
                    faults.append(Fault("", 0, f"the set holds over {MAX_FILES} files"))
                    return []
    return sorted(found)


def _read(path: Path) -> bytes:
    # SECURITY: a name that became a link or a pipe after the walk must not be followed or waited for
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a plain file")
        content = b""
        while len(content) <= MAX_FILE_BYTES and (piece := os.read(handle, MAX_FILE_BYTES + 1 - len(content))):
            content += piece
        return content
    finally:
        os.close(handle)


def read_files(directory: Path) -> Files:
    """Return every file of the set by its relative path. Raises `PolicyFaults`, also when a file changes while being read."""
    faults: list[Fault] = []
    files: Files = {}
    try:
        root = _root(directory)
        walked = _walk(root, faults)
        if sum(facts.st_size for _, facts in walked) > MAX_TOTAL_BYTES:
            raise PolicyFaults([Fault("", 0, f"the set is over {MAX_TOTAL_BYTES} bytes")])
        for name, _ in walked:
            files[name] = _read(root / name)
        again = _walk(root, [])
        settled = _root(directory) == root
    except OSError as error:
        raise PolicyFaults([*faults, Fault(directory.name, 0, f"cannot be read: {error.strerror or error}")]) from error
    if not settled or [_print(row) for row in walked] != [_print(row) for row in again]:
        faults.append(Fault("", 0, "the set changed while it was read: nothing was loaded"))
    if faults:
        raise PolicyFaults(faults)
    return files


def _print(row: tuple[str, os.stat_result]) -> tuple[object, ...]:
    name, facts = row
    return name, facts.st_size, facts.st_mtime_ns, facts.st_ino


def fingerprint(directory: Path) -> str:
    """Return a cheap mark that changes when a file of the set does; "" where the directory cannot be read."""
    try:
        root = _root(directory)
        rows = [_print(row) for row in _walk(root, [])]
    except OSError:
        return ""
    return hashlib.sha256(repr((str(root), rows)).encode()).hexdigest()


def digest(files: Files) -> str:
    """Return the set's name: SHA-256 over each path and content, in order, each with its length before it."""
    state = hashlib.sha256(b"gateway policy set v1\n")
    for name in sorted(files):
        for part in (name.encode(), files[name]):
            state.update(len(part).to_bytes(8, "big"))
            state.update(part)
    return f"sha256:{state.hexdigest()}"
