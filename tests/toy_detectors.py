"""Small exact detectors for tests of what is built on the detector contract."""

from __future__ import annotations

import re

from gateway.evidence import Role, Span

_EMAIL = re.compile(r"(?<![A-Za-z0-9.])[A-Za-z0-9.]{1,32}@[A-Za-z0-9]{1,32}\.[a-z]{2,8}(?![A-Za-z0-9])")
_RUN = re.compile(r"[A-Za-z0-9.@]{1,80}\Z")


class ToyEmails:
    """E-mail addresses of at most 74 characters; everything that could still become one is viable."""

    name = "toy"
    version = "1"
    left_context = 80

    def scan(self, text: str, start: int = 0) -> list[Span]:
        return [Span(m.start(), m.end(), "EMAIL_ADDRESS", 1.0, "toy") for m in _EMAIL.finditer(text) if m.start() >= start]

    def viable_from(self, text: str, start: int = 0) -> int:
        run = _RUN.search(text, start)
        return run.start() if run else len(text)


class ToyModerator:
    """Scores 1.0 for `attack` once the words `drop` `tables` stand side by side."""

    name = "toy-moderator"
    version = "1"

    def score(self, text: str, role: Role) -> dict[str, float]:
        session = self.open(role)
        return session.feed(text)

    def open(self, role: Role) -> ToySession:
        return ToySession()


class ToySession:
    def __init__(self) -> None:
        self._last = ""
        self._score = 0.0

    def feed(self, words: str) -> dict[str, float]:
        for word in words.lower().split():
            if self._last == "drop" and word == "tables":
                self._score = 1.0
            self._last = word
        return {"attack": self._score}
