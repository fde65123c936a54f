"""Does an answer give its system prompt away? Marks that an application puts there, watched for in all that the model says.

A mark is `canary-` followed by 12 to 64 letters and digits, at least two of each kind, in a message of the role `system` or `developer`.
The application makes it up and may change it with every request; no policy and no record holds it. What counts in an answer is the part
after `canary-`, forwards or backwards, in any case, in any channel, in the arguments of tools and in every reading of the text that listed
phrases are looked for in (base64, hidden characters, letters apart). It is an entity of the type CANARY, which blocks unless the profile
says otherwise. Sans-I/O.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import msgspec

from gateway.content.blocklist import Blocklist
from gateway.content.custom import Together
from gateway.content.rules import CANARY, Rules
from gateway.evidence import Role, Segment, Use

MOST = 8  # marks of one request that are watched; more are an attack on the watcher
_MARK = re.compile(r"(?i)(?<![^\W_])canary-([a-z0-9]{12,64})(?![^\W_])")  # bounded, and system messages alone are searched


def marks(text: str) -> list[str]:
    """Return the marks of a text, folded, without `canary-`."""
    if "canary-" not in text.lower():
        return []
    found = [match.group(1).lower() for match in _MARK.finditer(text)]
    return [mark for mark in dict.fromkeys(found) if sum(c.isdigit() for c in mark) >= 2 <= sum(c.isalpha() for c in mark)]


def marked(text: str) -> list[tuple[int, int]]:
    """Return where the marks of a system message stand: they are meant for the model, whatever a detector takes them for."""
    known = marks(text)
    return [(m.start(1) - len("canary-"), m.end(1)) for m in _MARK.finditer(text) if m.group(1).lower() in known] if known else []


def watching(rules: Rules, segments: Sequence[Segment]) -> Rules:
    """Return the rules of one request's answer: with its marks among what is looked for. Without marks, `rules` itself."""
    found: list[str] = []
    for segment in segments:
        if segment.role is Role.SYSTEM and segment.use is Use.CONTENT:
            found += marks(segment.text)
    watched = list(dict.fromkeys(found))[:MOST]
    if not watched:
        return rules
    # SECURITY: findings are cached under the rules' key; those of one request's marks are no other's.
    key = hashlib.sha256("\n".join(watched).encode()).digest()
    detector = Blocklist([*watched, *(mark[::-1] for mark in watched)], version=key[:8].hex(), kind=CANARY)
    own = rules.outbound.blocklist
    both = detector if own is None else Together([own, detector], detector.version)
    outbound = msgspec.structs.replace(rules.outbound, blocklist=both)
    return msgspec.structs.replace(rules, key=rules.key + b"/" + key, outbound=outbound)
