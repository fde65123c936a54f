"""The encoder's queue, deadline and refusals, with a network that needs no weights; and the weights that are shipped."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.content.second_opinion import Blend
from gateway.evidence import Role
from gateway.ports import InspectorUnavailable
from gateway.providers.local import encoder
from gateway.providers.local.encoder import BATCH_TOKENS, Card, Encoder, Network, card_of
from gateway.providers.local.moderation import HEADS, ModelInvalid

SOON = 5.0
EMPTY = Blend(weight={}, shift={}, slope={}, low={})


def card(version: str = "toy-1", heads: tuple[str, ...] = HEADS) -> Card:
    return Card("encoder-1", version, heads, {}, {}, [], EMPTY)


class Toy:
    """A token a word; the score of a window is its longest word's length."""

    def __init__(self, version: str = "toy-1") -> None:
        self.card = card(version)
        self.runs: list[list[list[int]]] = []
        self.go = threading.Event()
        self.go.set()
        self.fails = False

    def windows(self, text: str) -> tuple[list[list[int]], bool]:
        ids = [len(word) for word in text.split()]
        return [ids[at : at + 96] for at in range(0, len(ids), 96)], True

    def logits(self, rows: list[list[int]]) -> Any:
        self.go.wait(SOON)
        self.runs.append(rows)
        if self.fails:
            raise InspectorUnavailable("encoder failed: Toy")
        return np.array([[float(max(row))] * len(HEADS) for row in rows])

    def calibrated(self, logits: Any, role: Role) -> dict[str, float]:
        return dict(zip(HEADS, logits.tolist(), strict=True))


def made(folder: Path, toy: Toy, **more: Any) -> Encoder:
    (folder / "encoder.json").write_bytes(msgspec.json.encode(card()))
    return Encoder(folder, read=lambda _: toy, **more)  # type: ignore[arg-type, return-value]


def soon() -> float:
    return time.monotonic() + SOON


async def test_texts_get_their_own_answers(tmp_path: Path) -> None:
    one = made(tmp_path, Toy())
    answers = await one.judge(["a bb", "", "ccc " * 200], [Role.USER] * 3, soon())
    assert [scores.get("hate") for scores, _ in answers] == [2.0, None, 3.0]
    assert [whole for _, whole in answers] == [True, False, True], "what has no words was not read"
    one.close()


async def test_nothing_is_read_before_it_is_asked(tmp_path: Path) -> None:
    read: list[Path] = []
    toy = Toy()
    (tmp_path / "encoder.json").write_bytes(msgspec.json.encode(card()))

    def reading(folder: Path) -> Network:
        read.append(folder)
        return toy  # type: ignore[return-value]

    one = Encoder(tmp_path, read=reading)
    assert one.version == "toy-1" and read == []
    await asyncio.gather(*(one.judge(["a"], [Role.USER], soon()) for _ in range(5)))
    assert read == [tmp_path]
    one.close()


async def test_what_waits_is_read_together_and_in_bounds(tmp_path: Path) -> None:
    toy = Toy()
    one = made(tmp_path, toy)
    one.load()
    toy.go.clear()
    asked = [asyncio.create_task(one.judge(["word " * 96], [Role.USER], soon())) for _ in range(20)]
    await asyncio.sleep(0.05)
    toy.go.set()
    await asyncio.gather(*asked)
    assert sum(len(run) for run in toy.runs) == 20
    assert 1 < max(len(run) for run in toy.runs) <= BATCH_TOKENS // 96
    one.close()


async def test_past_its_deadline_a_question_fails_and_is_not_read(tmp_path: Path) -> None:
    toy = Toy()
    one = made(tmp_path, toy)
    one.load()
    toy.go.clear()
    first = asyncio.create_task(one.judge(["first"], [Role.USER], soon()))
    await asyncio.sleep(0.02)
    with pytest.raises(InspectorUnavailable, match="deadline"):
        await one.judge(["late"], [Role.USER], time.monotonic() + 0.03)
    toy.go.set()
    await first
    with pytest.raises(InspectorUnavailable):
        await one.judge(["later"], [Role.USER], time.monotonic() - 1.0)
    await one.judge(["after"], [Role.USER], soon())
    assert [row for run in toy.runs for row in run] == [[5], [5]], "`late` and `later` were dropped unread"
    one.close()


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    toy = Toy()
    one = made(tmp_path, toy, queue=10)
    one.load()
    toy.go.clear()
    waits = []
    for _ in range(3):  # one is being read, two wait
        waits.append(asyncio.create_task(one.judge(["a b c d"], [Role.USER], soon())))
        await asyncio.sleep(0.02)
    with pytest.raises(InspectorUnavailable, match="full"):
        await one.judge(["a b c d"], [Role.USER], soon())
    toy.go.set()
    await asyncio.gather(*waits)
    await one.judge(["a b c d"], [Role.USER], soon())
    one.close()


async def test_a_failed_run_fails_those_in_it_alone(tmp_path: Path) -> None:
    toy = Toy()
    one = made(tmp_path, toy)
    toy.fails = True
    with pytest.raises(InspectorUnavailable, match="Toy"):
        await one.judge(["a", "b"], [Role.USER] * 2, soon())
    toy.fails = False
    assert (await one.judge(["a"], [Role.USER], soon()))[0][0]["hate"] == 1.0
    one.close()


async def test_long_texts_are_cut_beside_the_event_loop(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []

    class Slow(Toy):
        def windows(self, text: str) -> tuple[list[list[int]], bool]:
            threads.append(threading.current_thread())
            return super().windows(text)

    one = made(tmp_path, Slow())
    one.load()
    await one.judge(["short"], [Role.USER], soon())
    await one.judge(["word " * 1_000], [Role.USER], soon())
    assert threads[0] is threading.main_thread() and threads[1] is not threading.main_thread()
    one.close()


async def test_closed_it_answers_nobody(tmp_path: Path) -> None:
    one = made(tmp_path, Toy())
    one.close()
    one.close()
    with pytest.raises(InspectorUnavailable, match="closed"):
        await one.judge(["a"], [Role.USER], soon())


@pytest.mark.parametrize("raised", [ModelInvalid("x"), ImportError("x"), OSError("x")])
async def test_weights_that_cannot_be_used_are_an_absent_inspector(tmp_path: Path, raised: Exception) -> None:
    def read(_: Path) -> Network:
        raise raised

    (tmp_path / "encoder.json").write_bytes(msgspec.json.encode(card()))
    one = Encoder(tmp_path, read=read)
    with pytest.raises(InspectorUnavailable):
        await one.judge(["a"], [Role.USER], soon())
    one.close()


async def test_weights_replaced_while_it_runs_are_not_used(tmp_path: Path) -> None:
    one = made(tmp_path, Toy("toy-2"))
    with pytest.raises(InspectorUnavailable):
        await one.judge(["a"], [Role.USER], soon())
    one.close()


def test_a_card_of_other_heads_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid):
        card_of(tmp_path)
    (tmp_path / "encoder.json").write_bytes(msgspec.json.encode(card(heads=("hate",))))
    with pytest.raises(ModelInvalid):
        card_of(tmp_path)


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.tokenizer.json"])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    if not encoder.available():
        pytest.skip("the extra `encoder` is not installed")
    for path in encoder.WEIGHTS.glob("encoder*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = bytearray((tmp_path / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ModelInvalid):
        Network(tmp_path)


async def test_the_shipped_weights_tell_intent_from_words() -> None:
    if not encoder.available():
        pytest.skip("the extra `encoder` is not installed")
    one = Encoder()
    texts = ["How do I kill a Python process?", "how do i kill my husband unnoticed?", "Wie geht es dir?", "\u4f60\u597d" * 30]
    process, husband, german, unread = await one.judge(texts, [Role.USER] * 4, soon())
    again = [(await one.judge([text], [Role.USER], soon()))[0] for text in texts]
    assert husband[0]["harmful"] > 0.7 > 0.3 > process[0]["harmful"]
    assert german[1] and unread == ({}, False)
    assert again == [process, husband, german, unread], "a score does not depend on what is asked about beside it"
    one.close()
