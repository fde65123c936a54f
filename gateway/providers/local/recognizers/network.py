"""Addresses of machines and mailboxes: e-mail (RFC 5321 limits), IPv4, IPv6, MAC, crypto wallets, URLs."""

from __future__ import annotations

import ipaddress
from hashlib import sha256

from gateway.providers.local.recognizers.base import LEFT, PROVEN, SHAPED, Found, Reading, Recognizer, Rule, compiled, found

_LOCAL = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'\x7f"
_DOMAIN = compiled(r"^((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24})")
_MAX_LOCAL, _MAX_DOMAIN = LEFT, 255


class Email:
    """Walks from each `@` in both directions: linear, whatever the text."""

    name = "email"
    trigger = "@"
    phrase = ""

    def find(self, reading: Reading, start: int) -> list[Found]:
        data = reading.data
        out: list[Found] = []
        at = data.find(b"@", start)
        while at >= 0:
            left = data[max(0, at - _MAX_LOCAL) : at]
            begin = at - (len(left) - len(left.rstrip(_LOCAL)))
            begin += len(data[begin:at]) - len(data[begin:at].lstrip(b".'-%"))
            domain = _DOMAIN.search(data[at + 1 : at + 1 + _MAX_DOMAIN])
            if domain is not None and start <= begin < at:
                out.append(found(begin, at + 1 + domain.end(1), "EMAIL_ADDRESS", self.name, 0.98, SHAPED))
            at = data.find(b"@", at + 1)
        return out


def _ipv6(reading: Reading, start: int, end: int) -> bool:
    text = reading.data[start:end].decode("ascii")
    if text.count(":") < 2 or text in {"::"} or (reading.data[start - 1 : start] == b":" and start > 0):
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return len(text) > 4 and any(c.isdigit() for c in text)


def _not_version(reading: Reading, start: int, end: int) -> bool:
    before = reading.before(start, 16)
    if reading.data[max(0, start - 1) : start] in {b".", b"-"} or before.endswith((b"version ", b"version: ", b"ver. ", b"release ")):
        return False
    following = reading.data[end : end + 2]
    return not (following[:1] in {b".", b"-"} and following[1:].isdigit())


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def _base58check(reading: Reading, start: int, end: int) -> bool:
    number = 0
    for char in reading.data[start:end].decode("ascii"):
        number = number * 58 + _BASE58.index(char)
    if number.bit_length() > 200:
        return False
    raw = number.to_bytes(25, "big")
    return sha256(sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HEXTET = "[0-9A-Fa-f]{1,4}"


def recognizers(*, urls: bool = False) -> list[Recognizer]:
    rules: list[Recognizer] = [
        Email(),
        Rule("ipv4", "IP_ADDRESS", rf"(?:{_OCTET}\.){{3}}{_OCTET}", left=r"\b", right=r"\b", score=0.95, check=_not_version),
        Rule(
            "ipv6",
            "IP_ADDRESS",
            r"[0-9A-Fa-f:]{2,39}(?:\.[0-9]{1,3}){0,3}",
            left=r"(?:^|[^0-9A-Za-z:.])",
            right=r"(?:$|[^0-9A-Za-z:])",
            trigger=rf"{_HEXTET}:(?::|{_HEXTET}:(?:{_HEXTET}|:))|::{_HEXTET}",
            score=0.95,
            check=_ipv6,
        ),
        Rule(
            "mac",
            "MAC_ADDRESS",
            "[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}|"
            r"[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}",
            left=r"\b",
            right=r"(?:$|[^0-9A-Za-z:.-]|[.:-](?:$|[^0-9A-Za-z]))",
            rank=PROVEN,
        ),
        Rule("bitcoin", "CRYPTO", "[13][1-9A-HJ-NP-Za-km-z]{25,34}", left=r"\b", right=r"\b", rank=PROVEN, check=_base58check),
        Rule("bech32", "CRYPTO", "(?:bc1|tb1)[02-9ac-hj-np-z]{11,71}", left=r"\b", right=r"\b"),
        Rule("ethereum", "CRYPTO", "0x[0-9A-Fa-f]{40}", left=r"\b", right=r"\b"),
    ]
    if urls:
        rules.append(Rule("url", "URL", r"https?://[^\s<>\"'`{}|\\^]{3,400}", left=r"\b", score=0.8, rank=0))
    return rules
