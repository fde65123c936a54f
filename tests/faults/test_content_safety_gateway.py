"""A gateway that asks Content Safety: what it blocks, what it does when nobody answers, and that nothing leaves before a verdict."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("msal", reason="the azure extra is not installed")
pytest.importorskip("azure.ai.contentsafety", reason="the azure extra is not installed")

from azure_authority import AzureAuthority
from backend_thread import DONE, BackendThread, event, is_stream, stream, whole
from content_safety_emulator import ContentSafetyEmulator
from scripted_backend import Exchange, answer
from served_gateway import ServedGateway
from wire import Reply, events, exchange_of

CALM = "Please tell me how to make a good vegetable soup for a cold evening."
DOUBTFUL = "The knights fought and killed many enemies in the old saga"  # inside the band for the local models, and no reason to block
CASCADE = """moderation = "cascade"
azure = { block_at = { hate = 4, sexual = 4, violence = 4, self_harm = 4 }, uncertain = [0.2, 0.9], shield = "block" }
"""
OUTBOUND = """moderation = "both"
azure = { block_at = { hate = 4, sexual = 4, violence = 4, self_harm = 4 }, protected_material = "block" }
"""


class Judged:
    def __init__(self, served: ServedGateway, cloud: ContentSafetyEmulator) -> None:
        self.served = served
        self.cloud = cloud
        self.answer = "A calm answer about soup."
        served.backend.script = self._say

    async def _say(self, exchange: Exchange) -> None:
        if is_stream(exchange):
            parts = [event({"content": self.answer[at : at + 7]}) for at in range(0, len(self.answer), 7)]
            await exchange.say(stream(event({"role": "assistant", "content": ""}), *parts, event({}, "stop"), DONE))
        else:
            await exchange.say(answer(200, whole(self.answer)))

    def profiles(self, on_error: str = "block") -> None:
        """Let the default profile ask: in doubt about what users send, always about answers, which are held whole."""
        file = self.served.policies / "content.toml"
        text = file.read_text().replace(', "nl"', "")
        text = text.replace("[profiles.default]\n", '[profiles.default]\nstream_mode = "strict"\n')
        text = text.replace("[profiles.default.inbound]\n", "[profiles.default.inbound]\n" + CASCADE)
        text = text.replace("[profiles.default.outbound]\n", "[profiles.default.outbound]\n" + OUTBOUND)
        text = re.sub(r"(?m)^(harassment|harmful|illicit) = 0\.[78]\n", "", text)
        cases = self.served.policies / "tests" / "access.toml"  # the set's own cases say how its answers are streamed
        cases.write_text(cases.read_text().replace('stream_mode = "window"', 'stream_mode = "strict"'))
        file.write_text(text.replace('on_inspector_error = "block"', f'on_inspector_error = "{on_error}"'))

    def start(self) -> None:
        (self.served.folder / "audit.key").write_text("ab" * 32)
        (self.served.folder / "pepper").write_text("cd" * 32)
        (self.served.folder / "safety").write_text("planted-key")
        here = self.served.folder
        more = f'[content_safety]\nendpoint = "{self.cloud.url}"\nkey = "file:{here}/safety"\n'
        more += f'deadline_ms = 700\nca_file = "{self.cloud.ca_file}"\n'
        self.served.write(key=f"file:{here}/audit.key", pepper=f"file:{here}/pepper", more=more)
        self.served.start()

    def ask(self, text: str, **more: object) -> Reply:
        return self.served.ask(text, **more)

    def recorded(self, reply: Reply) -> str:
        """Return the exchange's records as text."""
        return json.dumps(exchange_of(self.served.folder / "audit", reply.request_id))


def released(reply: Reply) -> str:
    """Return the text the caller got."""
    if "event-stream" not in reply.headers["content-type"]:
        return str(json.loads(reply.body)["choices"][0]["message"]["content"])
    return "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in events(reply.body) if e != "[DONE]")


def run(tmp_path_factory: pytest.TempPathFactory, on_error: str) -> Iterator[Judged]:
    with AzureAuthority() as azure, BackendThread() as backend, ContentSafetyEmulator() as cloud:
        made = Judged(ServedGateway(azure, backend, tmp_path_factory.mktemp("judged")), cloud)
        made.profiles(on_error)
        made.start()
        try:
            yield made
        finally:
            made.served.stop()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    yield from run(tmp_path_factory, "block")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    yield from run(tmp_path_factory, "local")


@pytest.fixture(scope="module")
def flagging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    yield from run(tmp_path_factory, "allow_flagged")


@pytest.fixture(autouse=True)
def well(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("closed", "local", "flagging"):
        if name in request.fixturenames:
            judged: Judged = request.getfixturevalue(name)
            judged.cloud.fault, judged.answer = "", "A calm answer about soup."


def rest(judged: Judged) -> None:
    """Wait until the breaker asks again."""
    end_s = time.monotonic() + 20.0
    while time.monotonic() < end_s and judged.ask(f"{DOUBTFUL} now {time.monotonic()}").status == 503:
        time.sleep(0.3)


def test_what_is_not_in_doubt_is_not_asked_and_what_is_becomes_the_clouds_to_decide(closed: Judged) -> None:
    before = len(closed.cloud.seen)
    assert closed.ask(CALM).status == 200
    inbound = [r for r in closed.cloud.seen[before:] if CALM in r.json().get("text", "")]
    assert inbound == []
    assert closed.ask(DOUBTFUL).status == 200
    assert any(DOUBTFUL in r.json().get("text", "") for r in closed.cloud.seen[before:])


def test_severity_six_is_blocked_as_a_filtered_prompt(closed: Judged) -> None:
    reply = closed.ask(f"{DOUBTFUL} violence6")
    assert (reply.status, reply.code) == (400, "content_filter")
    result = reply.error["innererror"]["content_filter_result"]
    assert result["violence"] == {"filtered": True, "severity": "high"}


def test_an_answer_the_cloud_blocks_never_reaches_the_caller(closed: Judged) -> None:
    closed.answer = "hello planted-answer hate6 and more of it"
    reply = closed.ask("What do you say about soup one?")
    assert reply.status == 200 and b"planted-answer" not in reply.body
    assert json.loads(reply.body)["choices"][0]["finish_reason"] == "content_filter"


def test_a_stream_leaves_whole_or_not_at_all(closed: Judged) -> None:
    reply = closed.ask("What do you say about soup two?", stream=True)
    assert released(reply) == "A calm answer about soup."
    closed.answer = "first planted-answer calm words, and only at the very end sexual6"
    reply = closed.ask("What do you say about soup three?", stream=True)
    assert b"planted" not in reply.body and b"first" not in reply.body and b'"content_filter"' in reply.body
    assert reply.body.rstrip().endswith(b"data: [DONE]")


def test_protected_material_in_answers_is_withheld(closed: Judged) -> None:
    closed.answer = "la la lyrics " * 20
    for more in ({}, {"stream": True}):
        reply = closed.ask(f"What do you sing? {more}", **more)
        assert reply.status == 200 and b"lyrics" not in reply.body and b"content_filter" in reply.body


@pytest.mark.parametrize("fault", ["hang", "unavailable", "busy", "garbage", "wrong"])
def test_without_an_answer_a_closed_profile_says_so_within_its_deadline(closed: Judged, fault: str) -> None:
    rest(closed)
    closed.cloud.fault = fault
    began_s = time.monotonic()
    reply = closed.ask(f"{DOUBTFUL} {fault}")
    took_s = time.monotonic() - began_s
    assert (reply.status, reply.code) == (503, "inspection_unavailable") and took_s < 2.0
    assert reply.headers["x-should-retry"] == "false"
    closed.cloud.fault = ""
    rest(closed)


def test_an_answer_that_cannot_be_judged_is_not_released(closed: Judged) -> None:
    rest(closed)
    closed.cloud.fault = "unavailable"
    closed.answer = "planted-answer never judged"
    for more in ({}, {"stream": True}):
        reply = closed.ask(CALM + str(more), **more)
        assert b"planted-answer" not in reply.body
    closed.cloud.fault = ""
    rest(closed)


def test_fallback_local_goes_on_and_is_recorded_as_degraded(local: Judged) -> None:
    local.cloud.fault = "unavailable"
    reply = local.ask(DOUBTFUL)
    assert reply.status == 200
    told = local.recorded(reply)
    assert '"degraded": true' in told and "uninspected" not in told
    assert 'gateway_degraded_total{what="inspection"}' in local.served.metrics()
    harmful = local.ask("I will kill you and burn your house down with your family in it. " * 4)
    assert (harmful.status, harmful.code) == (400, "content_filter"), "the local model goes on blocking"


def test_a_degraded_verdict_is_not_kept(local: Judged) -> None:
    local.cloud.fault = "unavailable"
    assert local.ask(f"{DOUBTFUL} harm6").status == 200
    local.cloud.fault = ""
    end_s = time.monotonic() + 20.0
    while local.ask(f"{DOUBTFUL} harm6").status != 400 and time.monotonic() < end_s:
        time.sleep(0.3)
    assert local.ask(f"{DOUBTFUL} harm6").code == "content_filter"


def test_allow_flagged_goes_on_and_flags_the_exchange(flagging: Judged) -> None:
    flagging.cloud.fault = "unavailable"
    for more in ({}, {"stream": True}):
        reply = flagging.ask(f"{DOUBTFUL} {more}", **more)
        assert reply.status == 200 and released(reply) == "A calm answer about soup."
        told = flagging.recorded(reply)
        assert '"degraded": true' in told and "uninspected" in told


def test_texts_and_keys_are_in_no_log_and_no_record(closed: Judged) -> None:
    rest(closed)
    asked = closed.ask(DOUBTFUL)
    assert asked.status == 200 and "azure-content-safety@2023-10-01" in closed.recorded(asked)
    text = closed.served.log + closed.served.metrics()
    assert "planted" not in text and "the hunt" not in text
    record = "".join(p.read_bytes().decode("utf-8", "replace") for p in (closed.served.folder / "audit").rglob("*") if p.is_file())
    assert "planted" not in record and "the hunt" not in record and "azure-content-safety@2023-10-01" in record


def test_check_names_a_profile_that_asks_in_vain_and_asks_once_when_live(local: Judged) -> None:
    config = local.served.folder / "gateway.toml"
    done = local.served.command("check", "-c", str(config), "--live")
    assert "content_safety" not in done.stderr
    key = local.served.folder / "safety"
    key.write_text("planted-wrong")
    done = local.served.command("check", "-c", str(config), "--live")
    key.write_text("planted-key")
    assert done.returncode == 1 and "[content_safety] content safety answered 401" in done.stderr and "planted" not in done.stderr
    without = local.served.folder / "without.toml"
    text = config.read_text().partition("[content_safety]")[0]
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for one, taken in zip((a, b, c), (local.served.data, local.served.control, local.served.ops), strict=True):
            one.bind(("127.0.0.1", 0))
            text = text.replace(f"127.0.0.1:{taken}", f"127.0.0.1:{one.getsockname()[1]}")
    without.write_text(text)
    for command in ("check", "serve"):
        done = local.served.command(command, "-c", str(without))
        assert done.returncode == 1
        assert "the profile `default` asks Azure AI Content Safety, and settings have no [content_safety]" in done.stderr
