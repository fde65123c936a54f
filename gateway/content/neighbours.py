"""In which orders could the texts of one direction be read one after the other? Each order has its borders to inspect.

Requests are read in the order of their messages. A whole answer may show its reasoning above its content or below, and a refusal instead of
either, so every two of a message's texts are neighbours in one order or another. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.evidence import Direction, Segment

_SPOKEN = frozenset({"content", "refusal", "reasoning_content"})


def orders(segments: Sequence[Segment], direction: Direction) -> list[list[int]]:
    """Return orders of indices; the first is that of the segments."""
    straight = list(range(len(segments)))
    if direction is Direction.INBOUND or len(segments) < 2:
        return [straight]
    runs: list[list[int]] = []
    for index, segment in enumerate(segments):
        path = segment.path
        if len(path) != 4 or path[0] != "choices" or path[2] != "message" or path[3] not in _SPOKEN:
            continue
        if runs and segments[runs[-1][0]].path[1] == path[1]:
            runs[-1].append(index)
        else:
            runs.append([index])
    several = [run for run in runs if len(run) > 1]
    if not several:
        return [straight]
    out = [straight]
    turned = [(2, 1, 0), (1, 0, 2), (1, 2, 0)] if any(len(run) > 2 for run in several) else [(1, 0)]
    for turn in turned:
        order = list(straight)
        for run in several:
            ways = [run[at] for at in turn if at < len(run)]
            for place, index in zip(run, ways, strict=True):
                order[place] = index
        out.append(order)
    return out
