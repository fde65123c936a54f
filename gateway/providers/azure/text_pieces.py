"""How is a text cut for a service that takes so many characters at once? In overlapping pieces; and how are documents grouped? Pure.

The service's unit of length is not documented: what is outside the basic plane counts as two, which is right or too careful.
"""

from __future__ import annotations

from collections.abc import Sequence


def width(text: str) -> int:
    """Return the length of a text in UTF-16 units."""
    return len(text) if text.isascii() or max(text, default="") <= "\uffff" else len(text) + sum(c > "\uffff" for c in text)


def pieces(text: str, size: int, overlap: int, least: int = 0) -> list[str]:
    """Return pieces of at most `size` units that cover the text, neighbours sharing `overlap` characters, the last at least `least` long.

    An empty text has no piece. A text shorter than `least` is its own single piece.
    """
    if overlap * 2 >= size or least > size:
        raise ValueError("the overlap or the least length leaves no room")
    step_size = size if width(text) == len(text) else size // 2
    if len(text) <= step_size:
        return [text] if text else []
    found = []
    at = 0
    while True:
        end = min(at + step_size, len(text))
        found.append(text[min(at, max(0, end - least)) : end])
        if end == len(text):
            return found
        at = end - overlap


def groups(widths: Sequence[int], most: int, size: int) -> list[list[int]]:
    """Return indices in order, in groups of at most `most` that are at most `size` wide together; one wider than that stands alone."""
    found: list[list[int]] = []
    room = 0
    for at, wide in enumerate(widths):
        if not found or len(found[-1]) == most or wide > room:
            found.append([])
            room = size
        found[-1].append(at)
        room -= wide
    return found
