"""Does a text hold one of the few phrases that only a prompt attack is likely to hold?

A short list of deterministic signals beside the statistical model: commands to drop the instructions given, commands to show
them, named jailbreak characters, forged chat-template delimiters. It must stay short: every rule is paid for in false alarms.
RE2, so linear in the text; every gap is bounded, so a match is at most `LONGEST` characters and streams see what batches see.
"""

from __future__ import annotations

import re2

LONGEST = 160

_RULES: tuple[tuple[str, str], ...] = (
    (
        "drop_instructions",
        r"\b(?:ignor(?:e|ing)|disregard|forget|override|bypass|skip)\s(?:[a-z']{1,12}\s){0,4}?"
        r"(?:previous|prior|above|earlier|preceding|former|initial|original|system|existing|past)\s(?:[a-z']{1,12}\s){0,2}?"
        r"(?:instruction|prompt|directive|guideline|rule|programming|command|order)s?\b",
    ),
    ("drop_your_rules", r"\b(?:ignore|disregard|forget|override|bypass)\s(?:all\s|any\s)?(?:of\s)?your\s(?:[a-z']{1,12}\s){0,2}?(?:instructions|rules|guidelines|programming|training|directives|restrictions|filters)\b"),
    (
        "show_prompt",
        r"\b(?:reveal|print|show|repeat|output|display|leak|disclose|expose|tell|give|share)\s(?:[a-z']{1,12}\s){0,3}?"
        r"your\s(?:[a-z']{1,12}\s){0,2}?(?:(?:system|initial|hidden|secret|original|confidential)\s(?:[a-z']{1,12}\s)?(?:prompt|instructions?|message)|prompt\b)",
    ),
    ("jailbreak_character", r"\bdo anything now\b|\byou are (?:now )?(?:going to (?:be|act as) )?dan\b|\b(?:stay|act|respond|answer) (?:in character )?as dan\b|\[🔓? ?jailbreak(?:ed)?\]"),
    ("mode_switch", r"\b(?:enter|activate|switch to|you are (?:now )?in|simulate|act as if in)\s(?:[a-z']{1,12}\s){0,2}?(?:developer|dan|god|jailbreak|unrestricted|unfiltered)\smode\b"),
    (
        "no_limits",
        r"\b(?:you|answer|respond|reply|act)\s(?:[a-z']{1,12}\s){0,8}?(?:without|no|free of|free from)\s(?:[a-z']{1,12}\s){0,2}?"
        r"(?:ethical|moral|content|safety)\s(?:[a-z']{1,12}\s){0,2}?(?:guidelines|restrictions|filters?|policies|constraints|limits|limitations)\b",
    ),
    ("forged_delimiter", r"<\|(?:im_start|im_end|im_sep|endoftext|system|assistant|user|start_header_id|eot_id)\|>|\[/?inst\]|<</?sys>>|(?:^|\n)\s{0,4}#{2,4}\s?(?:system|new instructions?)\s?:"),
)


class AttackRules:
    """The compiled list. Build once; searching is thread-safe."""

    def __init__(self) -> None:
        options = re2.Options()
        options.case_sensitive = False
        options.log_errors = False
        self._names = tuple(name for name, _ in _RULES)
        self._set = re2.Set.SearchSet(options)
        for _, pattern in _RULES:
            self._set.Add(pattern)
        self._set.Compile()

    def found(self, text: str) -> tuple[str, ...]:
        """Return the names of the rules that `text` matches, in list order."""
        return tuple(self._names[index] for index in sorted(self._set.Match(text) or ()))
