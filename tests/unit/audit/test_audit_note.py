"""Signed notes and checkpoints as C2SP writes them: parsed exactly, refused otherwise."""

from __future__ import annotations

import base64

import pytest
from audit_logs import KEY, ORIGIN, OTHER_KEY

from gateway.audit.tree import EMPTY_ROOT, Checkpoint, Signer, TreeError, Verifier, valid_origin

SIGNER = Signer(ORIGIN, KEY)
VERIFIER = Verifier(SIGNER.verifier_key())


def test_a_checkpoint_is_a_signed_note() -> None:
    note = SIGNER.sign(7, EMPTY_ROOT)
    text, signature = note.decode().split("\n\n")
    assert text == f"{ORIGIN}\n7\n{base64.b64encode(EMPTY_ROOT).decode()}"
    dash, name, encoded = signature.rstrip("\n").split(" ")
    assert (dash, name) == ("\u2014", ORIGIN)
    assert len(base64.b64decode(encoded)) == 4 + 64
    assert VERIFIER.open(note) == Checkpoint(ORIGIN, 7, EMPTY_ROOT)
    KEY.public_key().verify(base64.b64decode(encoded)[4:], (text + "\n").encode())


def test_the_specifications_own_keys_and_notes_are_understood() -> None:
    """golang.org/x/mod/sumdb/note documents this key and signature; the text is no checkpoint, but signed it is."""
    verifier = Verifier("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    note = (
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    with pytest.raises(TreeError, match="not a checkpoint"):
        verifier.open(note.encode())
    with pytest.raises(TreeError, match="signature is wrong"):
        verifier.open(note.replace("answer", "anwser").encode())


def test_a_note_may_carry_signatures_of_others() -> None:
    note = SIGNER.sign(7, EMPTY_ROOT)
    other = Signer("witness.example/w", OTHER_KEY).sign(7, EMPTY_ROOT).rsplit(b"\n\n", 1)[1]
    assert VERIFIER.open(note + other * 16).size == 7
    text, ours = note.rsplit(b"\n\n", 1)
    assert VERIFIER.open(text + b"\n\n" + other + ours).size == 7
    with pytest.raises(TreeError, match="not signed"):
        VERIFIER.open(text + b"\n\n" + other)


def test_the_same_name_with_another_key_is_nobody() -> None:
    with pytest.raises(TreeError, match="not signed"):
        VERIFIER.open(Signer(ORIGIN, OTHER_KEY).sign(7, EMPTY_ROOT))


def test_a_known_key_with_a_wrong_signature_spoils_the_note() -> None:
    one, two = SIGNER.sign(7, EMPTY_ROOT), SIGNER.sign(8, EMPTY_ROOT)
    with pytest.raises(TreeError, match="wrong"):
        VERIFIER.open(one + two.rsplit(b"\n\n", 1)[1])


def test_a_checkpoint_of_another_origin_is_refused_though_our_key_signed_it() -> None:
    text = Checkpoint("gateway.example/other", 7, EMPTY_ROOT).text().encode()
    signature = base64.b64encode(bytes.fromhex(SIGNER.verifier_key().split("+")[1]) + KEY.sign(text))
    with pytest.raises(TreeError, match="another origin"):
        VERIFIER.open(text + b"\n\xe2\x80\x94 " + ORIGIN.encode() + b" " + signature + b"\n")


def test_every_changed_byte_of_a_note_is_refused() -> None:
    note = SIGNER.sign(1234, bytes(range(32)))
    for at in range(len(note)):
        for bit in (1, 4, 128):
            with pytest.raises(TreeError):
                VERIFIER.open(note[:at] + bytes([note[at] ^ bit]) + note[at + 1 :])
        with pytest.raises(TreeError):
            VERIFIER.open(note[:at])


@pytest.mark.parametrize("text", ["0\n7\n", "o\n07\nA", "o\n-1\nA", "o\n7\nAAAA\n", "o\n99999999999999999999\nA"])
def test_what_is_no_checkpoint_is_refused_though_signed(text: str) -> None:
    text = f"{ORIGIN}{text[1:]}\n" if text.startswith("o") else text + "\n"
    signature = base64.b64encode(bytes.fromhex(SIGNER.verifier_key().split("+")[1]) + KEY.sign(text.encode()))
    with pytest.raises(TreeError):
        VERIFIER.open(text.encode() + b"\n\xe2\x80\x94 " + ORIGIN.encode() + b" " + signature + b"\n")


@pytest.mark.parametrize("key", ["", "a", "a+b", "a+00000000+AAAA", SIGNER.verifier_key()[:-1], "x" + SIGNER.verifier_key(), "+ + +"])
def test_what_is_no_verifier_key_is_refused(key: str) -> None:
    with pytest.raises(TreeError):
        Verifier(key)


def test_origins_have_no_spaces_plus_or_line_breaks() -> None:
    assert valid_origin("gateway.example/a1")
    assert not any(map(valid_origin, ["", "a b", "a+b", "a\nb", "a\u2003b", "a\x00", "x" * 257]))
