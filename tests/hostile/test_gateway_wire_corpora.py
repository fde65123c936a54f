"""Hostile bytes against the whole gateway: no client byte makes a 5xx, no message hides another, nothing ambiguous is read."""

from __future__ import annotations

import base64
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from raw_http import Target, converse, converse_all
from running_house import House
from wire import CHAT, Line, Reply, chat

ROOT = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("GATEWAY_CORPORA", ROOT.parent / "shared" / "corpora"))
SUITE = CORPORA / "jsontestsuite"
STRICTER = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json", "y_object_escaped_null_in_key.json"}


def need(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"the corpus {path.name} is not beside the checkout (GATEWAY_CORPORA)")
    return path


def documents() -> list[tuple[str, bytes]]:
    need(SUITE)
    found = sorted(path for folder in ("test_parsing", "test_transform") for path in (SUITE / folder).glob("*.json"))
    return [(path.name, path.read_bytes()) for path in found]


def send_all(house: House, bodies: list[bytes], who: str = "loadtest", path: str = CHAT) -> list[Reply]:
    """Send bodies over four connections; return the replies in order."""
    token = house.token(who)

    def some(at: int) -> list[Reply]:
        line = Line(house.data)
        try:
            return [line.ask(path, body, token) for body in bodies[at::4]]
        finally:
            line.close()

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(some, range(4)))
    return [parts[at % 4][at // 4] for at in range(len(bodies))]


@pytest.mark.corpora
def test_json_documents_as_bodies(house: House) -> None:
    corpus = documents()
    assert len(corpus) == 318 + 22
    for path in (CHAT, "/v1/embeddings", "/models/score/score"):
        replies = send_all(house, [data for _, data in corpus], path=path)
        odd = {name: r.status for (name, _), r in zip(corpus, replies, strict=True) if r.status not in (400, 404, 413, 415)}
        assert odd == {}  # none of them is a request, whatever JSON they are
        refused = {name: r.code for (name, _), r in zip(corpus, replies, strict=True) if name.startswith("n_")}
        assert set(refused.values()) == {"invalid_json"}, {n: c for n, c in refused.items() if c != "invalid_json"}


@pytest.mark.corpora
def test_json_documents_inside_a_message(house: House) -> None:
    corpus = documents()
    before, after = json.dumps(chat("assistant", "@@")).encode().split(b'"@@"')
    replies = send_all(house, [before + data + after for _, data in corpus])
    got = {name: (r.status, r.body) for (name, _), r in zip(corpus, replies, strict=True)}
    assert {name: status for name, (status, _) in got.items() if status >= 500} == {}
    accepted = {name for name, (status, _) in got.items() if name.startswith("n_") and status == 200}
    assert accepted == set()
    wrong = {n: s for n, (s, body) in got.items() if n.startswith("y_") and b"invalid_json" in body}
    assert set(wrong) <= STRICTER


@pytest.mark.corpora
def test_naughty_strings_as_messages(house: House) -> None:
    strings: list[str] = json.loads(need(CORPORA / "blns" / "blns.json").read_bytes())
    bodies = [
        json.dumps(chat(model, text), ensure_ascii=at % 2 == 0).encode()
        for at, text in enumerate(strings)
        for model in ("assistant", "echo")
    ]
    replies = send_all(house, bodies)
    assert {r.status for r in replies} <= {200, 400}
    assert sum(r.status == 200 for r in replies) > len(replies) // 2


@pytest.mark.corpora
def test_naughty_strings_in_every_other_place(house: House) -> None:
    strings: list[str] = json.loads(need(CORPORA / "blns" / "blns.json").read_bytes())
    bodies = []
    for at, text in enumerate(strings):
        made: list[dict[str, Any]] = [
            {**chat("assistant", "Hello"), "model": text},
            {**chat("assistant", "Hello"), text: 1},
            {**chat("assistant", "Hello"), "stop": [text], "user": text},
            {"model": "assistant", "messages": [{"role": text, "content": "Hello"}]},
            {"model": "echo", "messages": [{"role": "user", "name": text, "content": [{"type": "text", "text": text}]}], "stream": True},
        ]
        bodies.append(json.dumps(made[at % len(made)]).encode())
    replies = send_all(house, bodies)
    assert {r.status for r in replies} <= {200, 400, 404}
    for text, reply in zip(strings, replies, strict=True):
        if reply.status != 200 and len(text) > 12 and text.isprintable():
            assert text.encode() not in reply.body


def mutated(rng: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(4)
        if kind == 0 and data:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at:at] = rng.choice(
                [b'"', b"{", b"[", b"\\", b"\\ud800", b"1e999", b"-0", b"null", b"\x00", b"\xff", b"\xef\xbb\xbf", b"9" * 400]
            )
        elif kind == 2:
            del data[at : at + rng.randint(1, 20)]
        else:
            data[at:at] = bytes(data[at : at + rng.randint(1, 40)])
    return bytes(data)


def test_random_bodies_are_never_our_fault(house: House) -> None:
    rng = random.Random(20260101)
    seeds = [
        json.dumps(chat("echo", "Hello there", stream=True, stop=["a"], max_tokens=5, tools=[])).encode(),
        json.dumps({"model": "embed", "input": [[1, 2, 3], [4]]}).encode(),
        json.dumps({**chat("assistant", [{"type": "text", "text": "Hello"}]), "response_format": {"type": "json_object"}}).encode(),
        json.dumps({"model": "assistant", "prompt": ["a", "b"], "n": 1, "suffix": "x"}).encode(),
        b'{"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}',
    ]
    paths = (CHAT, "/v1/embeddings", "/v1/completions", "/v1/moderations", "/v2/models/score/infer")
    bodies = [rng.randbytes(rng.randint(1, 300)) if at % 5 == 0 else mutated(rng, rng.choice(seeds)) for at in range(500)]
    found: dict[int, int] = {}
    for at, path in enumerate(paths):
        for body, reply in zip(bodies[at::5], send_all(house, bodies[at::5], "developer" if at == 3 else "loadtest", path), strict=True):
            found[reply.status] = found.get(reply.status, 0) + 1
            assert reply.status < 500, (path, body, reply.body)
    assert set(found) <= {200, 400, 403, 404, 413, 415}


def test_deep_and_wide_documents_are_400(house: House) -> None:
    deep = [b'{"model":"assistant","messages":' + b"[" * n + b"]" * n + b"}" for n in (33, 65, 200, 5_000, 100_000, 900_000)]
    objects = [b'{"model":"assistant","messages":' + b'{"a":' * n + b"1" + b"}" * n + b"}" for n in (33, 200, 100_000)]
    wide = [
        b'{"model":"assistant","messages":[' + b",".join([b'{"role":"user","content":"a"}'] * 60_000) + b"]}",
        b'{"model":"assistant",' + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}",
        b'{"model":"assistant","seed":' + b"9" * 1_000_000 + b"}",
    ]
    replies = send_all(house, deep + objects + wide)
    assert {r.status for r in replies} <= {400, 413}


def target(house: House, who: str = "loadtest") -> Target:
    return Target("127.0.0.1", house.data, f"Bearer {house.token(who)}")


@pytest.mark.corpora
async def test_no_smuggled_request_of_1703_is_served(house: House) -> None:
    sets = json.loads(need(CORPORA / "smuggler" / "te_header_gadgets.json").read_bytes())
    gadgets = sorted({base64.b64decode(item["b64"]) for items in sets.values() for item in items})
    assert len(gadgets) == 1703
    edge = target(house)
    hidden = edge.get("/v1/models/smuggled")
    rest = b"0\r\n\r\n" + hidden
    head = (b"Content-Type: application/json", b"Content-Length: %d" % len(rest))
    talks = await converse_all(edge, [edge.head("POST", None, *head, gadget) + b"\r\n" + rest for gadget in gadgets], quiet_s=0.2)
    assert [gadget for gadget, talk in zip(gadgets, talks, strict=True) if len(talk.answers) != 1] == []
    assert {talk.status for talk in talks} <= {400, 401, 415}
    assert not any(b"smuggled" in talk.raw or b'"object"' in talk.raw for talk in talks)


@pytest.mark.corpora
async def test_no_message_that_llhttp_must_reject_is_served(house: House) -> None:
    vectors = json.loads(need(CORPORA / "llhttp" / "llhttp_request_vectors.json").read_bytes())
    payloads = [base64.b64decode(v["b64"]) for v in vectors]
    talks = await converse_all(target(house), payloads, quiet_s=0.2, total_s=7.0)
    for vector, talk in zip(vectors, talks, strict=True):
        assert all(status in (400, 401, 405, 408, 431) for status in talk.statuses), (vector["name"], talk.statuses)
        assert sum(status == 401 for status in talk.statuses) <= 1, vector["name"]


async def test_a_pipelined_second_request_is_not_served(house: House) -> None:
    edge = target(house)
    for first in (edge.get(), edge.post(b'{"model":"assistant"}')):
        talk = await converse(edge, first + edge.get("/v1/models/smuggled"), quiet_s=0.4)
        assert len(talk.answers) <= 2
        assert b"smuggled" not in talk.raw


async def test_silence_is_ended_within_the_deadline(house: House) -> None:
    edge = target(house)
    talk = await converse(edge, edge.head("GET", "/v1/models"), until_closed=True, total_s=9.0)
    assert (talk.status, talk.closed) == (408, True)
    assert talk.seconds < 7.0
