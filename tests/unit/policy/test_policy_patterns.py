"""Which patterns a policy set may bring: bounded RE2 only, and every fault is told with its line."""

from __future__ import annotations

import pytest
from policy_sets import CONTENT

from gateway.policy.content_profiles import read_content
from gateway.policy.faults import Fault
from gateway.policy.patterns import PatternUnfit, longest, may_hold_blanks


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("EMP-[0-9]{6}", 10),
        ("a|bcd|ef", 3),
        ("(?:ab?){2,4}c", 9),
        (r"\d{3}[ -]?\d{4}", 8),
        (r"\p{Lu}{2}\d", 3),
        ("[]x]{2}", 2),
        ("(?i:emp)[0-9]", 4),
        (r"a\{2", 3),
        ("[[:alpha:]]{3}", 3),
    ],
)
def test_the_longest_match_is_known(pattern: str, size: int) -> None:
    assert longest(pattern) == size


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a+", "no bound"),
        ("a*b", "no bound"),
        ("a{2,}", "no bound"),
        ("(a)", "capture"),
        ("(?P<n>a)", "capture"),
        ("a(?=b)", "no RE2"),
        (r"(?:a)\1", "no RE2"),
        ("(?:a", "no RE2"),
        ("a?", "empty text"),
        ("a|", "empty text"),
        (r"\bab", "whole_words"),
        ("^ab", "whole_words"),
        ("[0-9]{65}", "at most 64"),
        ("(?:[0-9]{10}){7}", "at most 64"),
        ("", "1 to 256"),
        ("a" * 257, "1 to 256"),
    ],
)
def test_unbounded_and_foreign_patterns_are_refused(pattern: str, why: str) -> None:
    with pytest.raises(PatternUnfit, match=why):
        longest(pattern)


@pytest.mark.parametrize(
    ("pattern", "blanks"), [("EMP[0-9]{3}", False), ("a b", True), ("a.b", True), (r"a\.b", False), ("[^x]", True), (r"\d\s?\d", True)]
)
def test_blanks(pattern: str, blanks: bool) -> None:
    assert may_hold_blanks(pattern) is blanks


def read(extra: str, inbound: str = "", outbound: str = "") -> tuple[object, list[Fault]]:
    text = CONTENT.decode()
    head, _, rest = text.partition("[profiles.strict.inbound]")
    first, _, second = rest.partition("[profiles.strict.outbound]")
    content = f"{head}[profiles.strict.inbound]{inbound}{first}[profiles.strict.outbound]{outbound}{second}\n{extra}"
    faults: list[Fault] = []
    return read_content(content.encode(), {}, faults), faults


OWN = """
[recognizers.employee]
says = "Employee numbers"
type = "EMPLOYEE_NUMBER"
pattern = "EMP-[0-9]{6}"
[recognizers.sites]
says = "Names of our sites"
type = "SITE"
phrases = ["north yard"]
[allowlists.public]
says = "What everyone may know"
values = ["Support@Example.com"]
"""


def test_a_profile_chooses_its_recognizers_and_allowlists() -> None:
    rules, faults = read(OWN, '\nrecognizers = ["employee", "sites"]')
    assert faults == []
    chosen = rules.profiles["strict"].inbound.recognizers  # type: ignore[attr-defined]
    assert [(item.type, item.longest, item.phrases) for item in chosen] == [("EMPLOYEE_NUMBER", 10, ()), ("SITE", 0, ("north yard",))]
    assert rules.profiles["strict"].outbound.recognizers == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("extra", "inbound", "message"),
    [
        (OWN.replace("{6}", "+"), "", "no bound"),
        (OWN.replace("EMPLOYEE_NUMBER", "SECRET"), "", "of your own"),
        (OWN.replace("EMPLOYEE_NUMBER", "employee"), "", "of your own"),
        (OWN.replace('phrases = ["north yard"]', ""), "", "either a `pattern` or `phrases`"),
        (OWN.replace('phrases = ["north yard"]', 'phrases = ["..."]'), "", "letter or digit"),
        (OWN, '\nrecognizers = ["nobody"]', "no recognizer `nobody`"),
        (OWN, '\nallowlists = ["nobody"]', "no allowlist `nobody`"),
        (OWN, '\nallowlists = ["public"]', "allowlists"),  # a stricter profile may not let more pass
        (OWN.replace("says = ", "say = ", 1), "", "unknown key"),
    ],
)
def test_faults_are_told(extra: str, inbound: str, message: str) -> None:
    _, faults = read(extra, inbound)
    assert any(message in fault.message for fault in faults), [fault.message for fault in faults]
