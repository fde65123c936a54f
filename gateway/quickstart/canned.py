"""What does the simulated model say? Invented texts and arithmetic in place of a model: the same answer to the same question.

Every person, number and key in here is made up. No I/O, no chance, no clock.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from array import array
from collections.abc import Iterator
from enum import StrEnum

EMBEDDING_DIMENSIONS = 256

# A token is a few characters with the blanks before them, so that joined tokens give back the text exactly.
_TOKEN = re.compile(r"\s*\w{1,6}|\s*[^\w\s]|\s+")

ASSISTANT = (
    "Here is a short plan. First, write down what you want to be true at the end of the week, in one sentence. Second, list the three "
    "steps that lead there and give each of them a day. Third, ask someone you trust to read the list. If a step has not moved by its "
    "day, make it smaller rather than later. That usually helps."
)

HOSTILE = (
    "I know where you live and I am going to kill you tonight. I will break down your door, beat you until you stop moving, stab you in "
    "the chest and watch you bleed to death on the floor. You deserve to die screaming, and nobody will save you."
)

SLOW = " ".join(["ten slow words in a row make one small line"] * 20)  # 200 tokens

_POSITIVE = frozenset(["good", "great", "excellent", "happy", "love", "thanks", "helpful", "fast", "nice", "wonderful", "pleased"])
_NEGATIVE = frozenset(["bad", "poor", "terrible", "angry", "hate", "broken", "slow", "useless", "refund", "awful", "late"])


class Behaviour(StrEnum):
    ASSISTANT = "assistant"
    ECHO = "echo"
    LEAKY = "leaky"
    HOSTILE = "hostile"
    SLOW = "slow"
    EMBED = "embed"
    SCORE = "score"


MODELS: dict[str, Behaviour] = {
    "assistant": Behaviour.ASSISTANT,
    "echo": Behaviour.ECHO,
    "echo-restore": Behaviour.ECHO,
    "echo-open": Behaviour.ECHO,
    "leaky": Behaviour.LEAKY,
    "hostile": Behaviour.HOSTILE,
    "slow": Behaviour.SLOW,
    "restricted": Behaviour.ASSISTANT,
    "embed": Behaviour.EMBED,
    "score": Behaviour.SCORE,
}


def answer_text(behaviour: Behaviour, asked: str) -> str:
    """Return the whole answer to the last user message."""
    match behaviour:
        case Behaviour.ECHO:
            return asked
        case Behaviour.LEAKY:
            return leaky_text()
        case Behaviour.HOSTILE:
            return HOSTILE
        case Behaviour.SLOW:
            return SLOW
        case _:
            return ASSISTANT


def leaky_text() -> str:
    """Return an answer full of invented personal data. The keys are put together here, so that no scanner finds one in the source."""
    cloud_key = "AK" + "IA" + base64.b32encode(_digest("invented cloud key"))[:16].decode("ascii")
    forge_key = "gh" + "p_" + re.sub(r"[^A-Za-z0-9]", "x", base64.b64encode(_digest("invented forge key")).decode("ascii"))[:36]
    return (
        "The customer is Margaret Hollingworth, who lives in Sheffield. Her e-mail address is margaret.hollingworth@example.com and her "
        "phone number is +1 202-555-0143. She paid with card 4111 1111 1111 1111; her bank account is DE89 3704 0044 0532 0130 00 and her "
        f"social security number is 489-36-8350. The deployment uses the key {cloud_key} and the token {forge_key}."
    )


def tokens_of(text: str) -> list[str]:
    """Split text into simulated tokens; joined they give the text back."""
    return _TOKEN.findall(text)


def pieces(text: str, seed: int) -> Iterator[str]:
    """Split text into pieces of 1 to 7 characters, always the same for the same text and seed."""
    at = round_ = 0
    while at < len(text):
        for byte in hashlib.sha256(f"{seed}:{len(text)}:{round_}:{text[:64]}".encode("utf-8", "surrogatepass")).digest():
            if at >= len(text):
                return
            size = byte % 7 + 1
            yield text[at : at + size]
            at += size
        round_ += 1


def embedding(text: str, dimensions: int) -> list[float]:
    """Return a unit vector that depends on the text alone. Near texts are not near each other: this is no model."""
    seed = _digest(text)
    raw = b"".join(hashlib.sha256(seed + struct.pack("<I", block)).digest() for block in range((dimensions + 7) // 8))
    values = [number / 2**31 - 1.0 for number in struct.unpack(f"<{len(raw) // 4}I", raw)[:dimensions]]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / norm for value in values]


def as_base64(vector: list[float]) -> str:
    """Return little-endian float32, base64: what SDKs ask for by default."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *array("d", vector))).decode("ascii")


def classify(text: str) -> tuple[str, float]:
    """Return (label, score) by counting words of praise and complaint."""
    words = re.findall(r"\w+", text.lower())
    good, bad = sum(word in _POSITIVE for word in words), sum(word in _NEGATIVE for word in words)
    if good == bad:
        return "neutral", 0.5
    return ("positive" if good > bad else "negative"), round(0.5 + 0.5 * abs(good - bad) / (good + bad + 1), 4)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
