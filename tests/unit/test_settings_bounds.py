"""Values that fit their type and are refused all the same: ranges, networks, ways to plaintext. Each fault stands at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_settings import GOOD, faults, line_of, loaded

REDIS = '[limits]\nstore = "redis"\n'


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://redis.example:6379/0", "plaintext is for loopback only"),
        ("redis://10.0.0.7:6379", "plaintext is for loopback only"),
        ("rediss://:hunter2@redis.example:6380", "holds a password"),
        ("redis://user:hunter2@127.0.0.1:6379", "holds a password"),
        ("rediss://redis.example:6380?ssl_cert_reqs=none", "may have no option"),
        ("rediss://redis.example:6380?ssl_check_hostname=false", "may have no option"),
        ("http://redis.example", "must be rediss://"),
        ("rediss://", "must be rediss://"),
        ("rediss://redis.example:abc", "must be rediss://"),
        ("unix://redis.example/tmp/redis", "must be rediss://"),
    ],
)
def test_redis_is_reached_by_tls_that_is_checked(tmp_path: Path, url: str, said: str) -> None:
    text = GOOD + REDIS + f'url = "{url}"\n'
    found = faults(tmp_path, text)
    assert [line for line, _ in found] == [line_of(text, f'url = "{url}')] and said in found[0][1]
    assert "hunter2" not in found[0][1], "a password is never repeated"


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:6379/0", "redis://localhost", "rediss://redis.example:6380/2", "rediss://gateway@redis.example?ssl_ca_certs=/ca.pem",
     "unix:///run/redis.sock"],
)  # fmt: skip
def test_redis_on_this_machine_or_by_tls_is_taken(tmp_path: Path, url: str) -> None:
    assert loaded(tmp_path, GOOD + REDIS + f'url = "{url}"\n').limits.url == url


@pytest.mark.parametrize(
    ("section", "setting", "said"),
    [
        ("server", "workers = 0", "from 1 to 64"),
        ("server", "max_exchanges = -1", "`server.max_exchanges` must be from 1"),
        ("server", "drain_s = -1.0", "`server.drain_s` must be from 0"),
        ("server", "drain_s = nan", "`server.drain_s` must be from 0"),
        ("server", "max_body_bytes = 0", "`server.max_body_bytes` must be from 1"),
        ("policies", "watch_s = -2.0", "`policies.watch_s` must be from 0"),
    ],
)
def test_a_number_out_of_range_is_a_fault_at_its_line(tmp_path: Path, section: str, setting: str, said: str) -> None:
    text = GOOD.replace(f"[{section}]", f"[{section}]\n{setting}")
    ((line, message),) = faults(tmp_path, text)
    assert line == line_of(text, setting) and said in message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("[limits]\nreplicas = 0\n", "`limits.replicas` must be from 1"),
        ("[limits]\nbudget_ms = 0\n", "`limits.budget_ms` must be from 1"),
        ("[inspection]\nner_workers = 0\n", "`inspection.ner_workers` must be from 1"),
        ("[telemetry]\nsample = 2.0\n", "`telemetry.sample` must be from 0 to 1"),
        ('[telemetry]\nscrapers = ["prometheus"]\n', "`prometheus` is not a network"),
        ('[telemetry]\nscrapers = ["0.0.0.0/0"]\n', "is everyone"),
        ('[telemetry]\notlp_endpoint = "http://collector.example:4318"\n', "plaintext is for loopback only"),
        ('[telemetry]\notlp_endpoint = "collector:4318"\n', "must be http(s)://"),
        ("[keys]\nenabled = true\n", "needs `file`"),
    ],
)  # fmt: skip
def test_what_could_not_work_or_would_open_is_found_at_once(tmp_path: Path, more: str, said: str) -> None:
    ((line, message),) = faults(tmp_path, GOOD + more)
    assert said in message and line == GOOD.count("\n") + 2


def test_several_processes_need_a_common_store(tmp_path: Path) -> None:
    text = GOOD.replace("[server]", "[server]\nworkers = 2")
    assert [message for _, message in faults(tmp_path, text)] == [
        "several workers need [limits] store `redis`: in-memory limits would multiply by their number"
    ]
    assert loaded(tmp_path, text + REDIS + 'url = "redis://127.0.0.1"\n').server.workers == 2


def test_the_control_port_is_never_plaintext_beyond_loopback(tmp_path: Path) -> None:
    text = GOOD.replace("[server]", '[server]\ncontrol = "0.0.0.0:8081"')
    terminator = '[server.terminator]\nname = "ingress"\npeers = ["10.0.0.0/8"]\n'
    for more in ("", terminator):
        ((line, message),) = faults(tmp_path, text + more)
        assert line == line_of(text, "control") and "plaintext beyond loopback" in message
    served = loaded(tmp_path, text + '[server.tls]\ncertificate = "a.pem"\nkey = "a.key"\n')
    assert served.server.tls is not None


@pytest.mark.parametrize(
    ("peers", "said"),
    [('["ingress"]', "not a network"), ('["10.0.0.0/8", "::/0"]', "`::/0` is everyone"), ("[]", "needs `peers`")],
)
def test_a_terminator_is_told_by_addresses_of_its_own(tmp_path: Path, peers: str, said: str) -> None:
    text = GOOD + f'[server.terminator]\nname = "ingress"\npeers = {peers}\n'
    assert said in " ".join(message for _, message in faults(tmp_path, text))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('operations = ["chat.completions"]', 'operations = ["chat.completion"]', "`chat.completion` is no operation"),
        ('operations = ["chat.completions"]', 'operations = ["moderations"]', "`moderations` is no operation of a model"),
        ('operations = ["chat.completions"]', "operations = []", "states no operation"),
        ('operations = ["chat.completions"]', 'operations = ["score"]', "needs `request_schema`"),
        ('model = "assistant"', 'model = "assistant"\ndata_class = "secret"', "`secret` is no data class"),
        ('origin = "gateway.example/log"', 'origin = "a log+more"', "`audit.origin` must be printable"),
    ],
)
def test_names_that_mean_nothing_are_faults(tmp_path: Path, before: str, after: str, said: str) -> None:
    text = GOOD.replace(before, after)
    ((line, message),) = faults(tmp_path, text)
    assert said in message and line > 0
