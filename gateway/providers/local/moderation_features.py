"""Which integers stand for the words of a text, so that training and serving count exactly the same things.

A text is a row of *words*. A word is a maximal run of letters, digits and apostrophes after compatibility folding, cut into
pieces of at most 24 characters. Each word gives its hash, the hashes of its byte 3- to 5-grams inside word boundaries, and
hashes of itself with the one and the two words before it. Hashes are fixed arithmetic on bytes (CRC-32 and a multiplicative
mix), so that a model means the same on every machine and in every process.

# INVARIANT: the words of `a + b` are the words of `a` followed by the words of `b` wherever `a` ends with white space.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GRAM_BITS = 18
PAIR_BITS = 18
WORD_BITS = 18
MAX_WORD_CHARS = 24
_MASK = (1 << 64) - 1
START = 0x9E3779B9  # the word before the first word
_SALTS = np.array([[1], [2]], dtype=np.uint64)

Int64s = NDArray[np.int64]
UInt32s = NDArray[np.uint32]

# One character class, no alternation and nothing after it: a single pass, whatever the input. The cut bounds one word's work.
_ASCII_WORDS = re.compile(r"[a-z0-9']{1,24}")
_WORDS = re.compile(r"(?:[^\W_]|'){1,24}")
_APOSTROPHES = ("\u2019", "\u2018", "\u02bc")


def length_scale(count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what a sum over `count` words is divided by: its square root, and a little more past 32 words.

    Words of one text keep to one topic, so their sum spreads faster than that of independent draws.
    """
    scale: NDArray[np.float64] = np.sqrt(count + 1.0) * np.maximum(1.0, count / 32.0) ** 0.25
    return scale


def words(text: str) -> list[str]:
    """Return the folded words of `text` in order. Stateless: may be called on any piece that starts after white space."""
    if text.isascii():
        return _ASCII_WORDS.findall(text.lower())
    folded = unicodedata.normalize("NFKC", text).casefold()
    for mark in _APOSTROPHES:
        folded = folded.replace(mark, "'")
    return _WORDS.findall(folded)


def word_ids(row: Sequence[str]) -> UInt32s:
    """Return the CRC-32 of each word's UTF-8 bytes."""
    return np.fromiter((zlib.crc32(word.encode("utf-8", "replace")) for word in row), dtype=np.uint32, count=len(row))


def word_buckets(ids: UInt32s) -> Int64s:
    """Return each word's bucket in the word table."""
    return (_mix(ids.astype(np.uint64)) >> np.uint64(64 - WORD_BITS)).astype(np.int64)


def pair_buckets(before: UInt32s, ids: UInt32s, salt: int) -> Int64s:
    """Return the bucket of each word with another word before it; `salt` keeps neighbours and skipped neighbours apart."""
    joined = (before.astype(np.uint64) << np.uint64(32)) | ids.astype(np.uint64)
    return (_mix(joined + np.uint64(salt)) >> np.uint64(64 - PAIR_BITS)).astype(np.int64)


def pair_bucket(before: int, own: int, salt: int) -> int:
    """Return what `pair_buckets` gives for one pair, in plain whole numbers."""
    value = ((before << 32) | own) + salt
    mixed = ((value ^ (value >> 31)) * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9) & _MASK
    return mixed >> (64 - PAIR_BITS)


def both_pair_buckets(chain: UInt32s) -> Int64s:
    """Return [2, n] buckets for a chain of two earlier words and n words: with the word before, and with the one before that."""
    wide = chain.astype(np.uint64)
    joined = np.empty((2, len(chain) - 2), dtype=np.uint64)
    joined[0] = wide[1:-1]
    joined[1] = wide[:-2]
    joined = ((joined << np.uint64(32)) | wide[2:]) + _SALTS
    return (_mix(joined) >> np.uint64(64 - PAIR_BITS)).astype(np.int64)


def grams(row: Sequence[str]) -> tuple[Int64s, Int64s]:
    """Return buckets of all 3- to 5-grams of the words and, for each, the index of the word it lies in (not sorted)."""
    raw = np.frombuffer((" " + " ".join(row) + "     ").encode("utf-8", "replace"), dtype=np.uint8).astype(np.uint64)
    space = raw == 32
    owner = np.cumsum(space) - 1
    buckets: list[Int64s] = []
    owners: list[Int64s] = []
    rolling = raw[:-1] * np.uint64(257) + raw[1:]
    inner = ~space[1:]  # whether positions i+1 .. i+n-2 hold no space
    for size in (3, 4, 5):
        rolling = rolling[: len(raw) - size + 1] * np.uint64(257) + raw[size - 1 :]
        inner = inner[: len(raw) - size + 1]
        if size > 3:
            inner = inner & ~space[size - 2 : len(raw) - 1]
        at = np.flatnonzero(inner)
        buckets.append((_mix(rolling[at] + np.uint64(size << 56)) >> np.uint64(64 - GRAM_BITS)).astype(np.int64))
        owners.append(owner[at])
    return np.concatenate(buckets), np.concatenate(owners)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = (value ^ (value >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
