"""The served set: a bad one never replaces a good one, and no decision is taken on half of one."""

from __future__ import annotations

import shutil
import threading

import pytest
from policy_sets import SEE, WEDNESDAY_NOON_S, asked, files, write

from gateway.policy.facts import RouteFacts
from gateway.policy.faults import PolicyFaults
from gateway.policy.holder import PolicyHolder
from gateway.policy.testing import example_subject
from gateway.refusals import DEPLOYMENT_NOT_FOUND, Refusal

CHAT = '@id("chat") @says("x") @owner("x") permit (principal in Gateway::Role::"reader", action == Gateway::Action::"chat", resource);\n'
FORBID = '@id("stop") @says("x") @owner("x") forbid (principal, action == Gateway::Action::"chat", resource);\n'
ROUTES = {"m": RouteFacts(name="m")}
READER = example_subject(app_roles=frozenset({"reader"}))


def may(holder: PolicyHolder) -> bool:
    try:
        holder.current.permit(READER, asked("m"), WEDNESDAY_NOON_S)
    except Refusal:
        return False
    return True


def test_a_good_set_takes_over_and_old_permits_keep_their_generation(tmp_path):
    holder = PolicyHolder(write(tmp_path, files(SEE + CHAT)), routes=ROUTES)
    assert (holder.status.generation, holder.status.ready, holder.status.faults) == (1, True, ())
    old = holder.current.permit(READER, asked("m"), WEDNESDAY_NOON_S)
    assert not holder.changed
    write(tmp_path, files(SEE + CHAT + FORBID))
    assert holder.changed
    assert holder.reload()
    assert (holder.status.generation, holder.status.digest) == (2, holder.current.digest)
    assert not holder.changed
    assert not may(holder)
    assert old.generation is not holder.current
    assert old.policy_digest != holder.current.digest


@pytest.mark.parametrize("harm", ["broken", "empty", "deleted", "no-policies", "failing-test", "unreadable-name"])
def test_a_bad_set_never_replaces_a_good_one(tmp_path, harm):
    directory = write(tmp_path / "set", files(SEE + CHAT))
    holder = PolicyHolder(directory, routes=ROUTES)
    good, before = holder.current, holder.status
    if harm == "broken":
        write(directory, {"access/a.cedar": b"permit (principal"})
    elif harm == "empty":
        shutil.rmtree(directory)
        directory.mkdir()
    elif harm == "deleted":
        shutil.rmtree(directory)
    elif harm == "no-policies":
        shutil.rmtree(directory / "access")
    elif harm == "failing-test":
        write(directory, {"tests/t.toml": b'[models.m]\n[[test]]\nname = "n"\nwho = {}\ndoes = "chat"\non = "m"\nexpect = "permit"\n'})
    else:
        write(directory, {"access/b.ceder": b""})
    assert not holder.reload()
    assert holder.current is good
    assert may(holder)
    assert holder.status.faults
    assert holder.status.error
    assert (holder.status.generation, holder.status.digest, holder.status.ready) == (before.generation, before.digest, True)
    shutil.rmtree(directory, ignore_errors=True)
    write(directory, files(SEE + CHAT))
    assert holder.reload()
    assert holder.status == before  # the same set is the same generation


@pytest.mark.parametrize("there", [True, False])
def test_a_first_start_without_policies_denies_everything(tmp_path, there):
    directory = tmp_path / "set"
    if there:
        directory.mkdir()
    holder = PolicyHolder(directory, routes=ROUTES)
    assert not holder.status.ready
    assert "everything is denied" in holder.status.error
    with pytest.raises(Refusal) as found:
        holder.current.permit(READER, asked("m"), WEDNESDAY_NOON_S)
    assert found.value.kind is DEPLOYMENT_NOT_FOUND
    context = holder.current.context(READER, "", peer="", stream=False, now_s=WEDNESDAY_NOON_S)
    assert not holder.current.decide(READER, "audit:read", "", context).allowed
    assert holder.current.visible_models(READER, WEDNESDAY_NOON_S) == ()
    assert not holder.reload()
    write(directory, files(SEE + CHAT))
    assert holder.reload()
    assert holder.status.ready
    assert may(holder)


def test_a_first_start_with_a_bad_set_does_not_start(tmp_path):
    with pytest.raises(PolicyFaults):
        PolicyHolder(write(tmp_path, files("permit")), routes=ROUTES)


def test_invariants_are_those_of_the_start(tmp_path):
    kept = tmp_path / "kept.toml"
    kept.write_text('[[test]]\nname = "readers never chat"\nwho = { app_roles = ["reader"] }\ndoes = "chat"\non = "*"\nexpect = "deny"\n')
    directory = write(tmp_path / "set", files(SEE))
    holder = PolicyHolder(directory, routes=ROUTES, invariants=kept)
    kept.write_text("")
    write(directory, files(SEE + CHAT))
    assert not holder.reload()
    assert "readers never chat" in holder.status.error
    assert not may(holder)


def test_no_decision_is_taken_on_half_a_set(tmp_path):
    # Two sets that agree on the answer only when each is whole: the permit and its forbid live in different files.
    def content(closed: bool) -> dict[str, bytes]:
        made = files(SEE + CHAT)
        harmless = FORBID.replace('"stop"', '"pass"').replace("resource)", "resource) when { false }")
        made["access/z.cedar"] = (FORBID if closed else harmless).encode()
        return made

    directory = write(tmp_path, content(True))
    holder = PolicyHolder(directory, routes=ROUTES)
    digests = {holder.current.digest}
    allowed: list[bool] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            held = holder.current
            digests.add(held.digest)
            try:
                held.permit(READER, asked("m"), WEDNESDAY_NOON_S)
                allowed.append(held.policies.keys() >= {"pass"})
            except Refusal:
                allowed.append(held.policies.keys() >= {"stop"})

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for turn in range(6):
            write(directory, content(turn % 2 == 0))
            assert holder.reload()
            write(directory, {"access/z.cedar": b"forbid (princi"})
            assert not holder.reload()
    finally:
        stop.set()
        watcher.join()
    assert allowed
    assert all(allowed)
    assert len(digests) <= 2


def test_reloads_from_several_threads_take_turns(tmp_path):
    directory = write(tmp_path, files(SEE + CHAT))
    holder = PolicyHolder(directory, routes=ROUTES)
    write(directory, files(SEE + CHAT + FORBID))
    threads = [threading.Thread(target=holder.reload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert holder.status.generation == 2


def test_a_set_is_worth_trying_once_it_stands_still(tmp_path):
    directory = write(tmp_path, files(SEE + CHAT))
    holder = PolicyHolder(directory, routes=ROUTES)
    assert not holder.look() and not holder.look()
    (directory / "access" / "b.cedar").write_text(CHAT.replace('@id("chat")', '@id("more")'))
    assert not holder.look(), "it has only just changed"
    (directory / "access" / "c.cedar").write_text(CHAT.replace('@id("chat")', '@id("yet-more")'))
    assert not holder.look(), "it is still being copied in"
    assert holder.look()
    assert holder.reload() and not holder.look()
