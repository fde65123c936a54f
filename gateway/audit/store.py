"""Where do the log's bytes lie? One directory, one owner: files put whole, synced by name, write-ahead segments in order.

Must not know what a record or a tree is. Directories are 0700, files 0600, symbolic links are never followed.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

_SEGMENT: Final = re.compile(r"([0-9]{20})\.wal")
_SPARE: Final = ".spare-wal"
_ZEROS: Final = bytes(1 << 20)
MAX_SEGMENT_BYTES: Final = 256 << 20
Sync = Callable[[int], None]


class DirectoryInUse(Exception):
    """Another process holds the directory."""


class Store:
    """The files of one log. `sync` makes what was written through a descriptor durable; a failure of it is final."""

    def __init__(self, directory: Path, *, sync: Sync = os.fdatasync) -> None:
        self.directory = directory
        self.fdatasync = sync
        self._lock: int | None = None

    def acquire(self) -> None:
        """Make the directory and hold it alone. Raises `DirectoryInUse`, `OSError`."""
        self._make(self.directory / "wal")
        self.directory.chmod(0o700)
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise DirectoryInUse(f"`{self.directory}` is in use by another process: give each process its own audit directory") from error
        self._lock = lock
        self.discard_spare()

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make(self, path: Path) -> None:
        if not path.is_dir():
            self._make(path.parent)
            path.mkdir(mode=0o700, exist_ok=True)

    def read(self, name: str, limit: int) -> bytes:
        """Return a file whole. Raises `FileNotFoundError`, other `OSError`, also for a file over `limit` bytes."""
        return read_file(self.directory / name, limit)

    def put(self, name: str, data: bytes) -> None:
        """Make `name` hold `data`, whole or not at all; not yet durable."""
        # One process writes, from one thread at a time, so one temporary name serves; a crash leaves at most this one file.
        fresh, path = self.directory / ".fresh", self.directory / name
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        try:
            fresh.replace(path)
        except FileNotFoundError:
            self._make(path.parent)
            fresh.replace(path)

    def sync(self, names: Iterable[str]) -> None:
        """Make files, and the directories that name them up to the root, durable. Raises `OSError`."""
        directories = {self.directory}
        for name in names:
            path = self.directory / name
            self._sync_one(path)
            while (path := path.parent) not in directories:
                directories.add(path)
        for path in sorted(directories, reverse=True):
            self._sync_one(path)

    def _sync_one(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.fdatasync(fd)
        finally:
            os.close(fd)

    def remove_partials(self, full: str, keep: Iterable[str]) -> bool:
        """Remove the partial tiles of a full one but those named in `keep`. Returns True when none is left."""
        folder, kept = self.directory / (full + ".p"), {(self.directory / name) for name in keep}
        left = False
        try:
            for path in folder.iterdir():
                if path in kept:
                    left = True
                else:
                    path.unlink()
            if not left:
                folder.rmdir()
        except FileNotFoundError:
            return True
        return not left

    # --- write-ahead segments

    def segments(self) -> list[tuple[int, Path]]:
        """Return (first index, path) of each segment, in order."""
        return list_segments(self.directory)

    def begin_segment(self, first: int, frame: bytes, size: int) -> tuple[int, int]:
        """Make a durable segment that holds `frame`, with space for `size` bytes. Returns a descriptor and where to write on."""
        fresh, path = self.directory / ".fresh-wal", self.directory / "wal" / f"{first:020d}.wal"
        try:
            (self.directory / _SPARE).replace(fresh)
        except FileNotFoundError:
            fd = self._new(fresh)
        else:
            fd = os.open(fresh, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            # Space taken in advance: a full disk shows here and not in the middle of a record, and a commit changes no file size.
            os.ftruncate(fd, max(size, len(frame)))
            os.posix_fallocate(fd, 0, max(size, len(frame)))
            write_all(fd, frame)
            self.fdatasync(fd)
            fresh.replace(path)
            self._sync_one(path.parent)
        except OSError:
            os.close(fd)
            raise
        return fd, len(frame)

    def prepare(self, size: int) -> None:
        """Make a spare of zeros for the next segment. Raises `OSError`. For a thread that nothing waits for.

        A commit into space that was only promised changes the file's extents too; into zeros it changes nothing but them, which
        halves what a sync costs. CRASH: a spare is whole or has another name; a start removes both.
        """
        unready = self.directory / ".zeros-wal"
        fd = self._new(unready)
        try:
            os.posix_fallocate(fd, 0, size)
            for at in range(0, size, len(_ZEROS)):
                write_all(fd, _ZEROS[: size - at])
            self.fdatasync(fd)
        finally:
            os.close(fd)
        unready.replace(self.directory / _SPARE)

    def discard_spare(self) -> None:
        """Remove a spare and what was to become one."""
        for name in (_SPARE, ".zeros-wal"):
            (self.directory / name).unlink(missing_ok=True)

    def _new(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def close(self, fd: int) -> None:
        os.close(fd)

    def drop_segments(self, before: int) -> None:
        for first, path in self.segments():
            if first < before:
                path.unlink()


def list_segments(directory: Path) -> list[tuple[int, Path]]:
    found = []
    for path in (directory / "wal").iterdir():
        match = _SEGMENT.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found)


def read_file(path: Path, limit: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"`{path}` is larger than {limit} bytes")
    return data


def write_all(fd: int, data: bytes) -> None:
    """Write `data` at the descriptor's place. Raises `OSError`, and what was written of it by then is torn."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
