"""How do bytes of a token or key document become values without a second reading? Strict base64url and strict JSON.

Two parsers that disagree about one token are an authentication bypass, so every text here has exactly one spelling:
base64url without padding and with zero trailing bits (RFC 4648 section 3.5, RFC 7515 section 2), JSON without duplicate
names, NaN, byte order mark, lone surrogates or anything after the value (RFC 8259 section 4, RFC 7515 section 4).
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from typing import Any, Final

import jiter

_ALPHABET: Final = re.compile(r"[A-Za-z0-9_-]*")
# The unused low bits of the last character must be zero, or two texts decode to the same bytes.
_LAST_OF_TWO: Final = frozenset("AQgw")
_LAST_OF_THREE: Final = frozenset("AEIMQUYcgkosw048")


class NotStrict(ValueError):
    """The text is not the one canonical spelling. The message never holds any of the text."""


def decode_base64url(text: str) -> bytes:
    """Return the bytes of canonical unpadded base64url. Raises `NotStrict`."""
    if _ALPHABET.fullmatch(text) is None:
        raise NotStrict("characters outside base64url")
    rest = len(text) & 3
    if rest == 0:
        return urlsafe_b64decode(text)
    if rest == 1:
        raise NotStrict("impossible base64url length")
    if text[-1] not in (_LAST_OF_TWO if rest == 2 else _LAST_OF_THREE):
        raise NotStrict("non-canonical base64url: trailing bits are not zero")
    return urlsafe_b64decode(text + ("==" if rest == 2 else "="))


def parse_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises `NotStrict` for anything that is not exactly one unambiguous object."""
    try:
        value = jiter.from_json(data, catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="keys")
    except ValueError:
        # SECURITY: the parser's own message quotes names from the input; it goes nowhere.
        raise NotStrict("not strict JSON") from None
    if type(value) is not dict:
        raise NotStrict("not a JSON object")
    return value
