"""Does a text hold one of the few phrases that only a prompt attack is likely to hold?

A short list of deterministic signals beside the statistical model: commands to drop the instructions given, commands to show
them, named jailbreak characters, forged chat-template delimiters. It must stay short: every rule is paid for in false alarms.
RE2, so linear in the text; every gap is bounded, so a match is at most `LONGEST` characters and streams see what batches see.
"""

from __future__ import annotations

import re2

LONGEST = 200

_WORD = r"[a-z']{1,12}\s"
_DROP = (
    r"\b(?:ignor(?:e|ing)|disregard|forget|override|bypass|skip)\s(?:" + _WORD + r"){0,4}?"
    r"(?:previous|prior|above|earlier|preceding|former|initial|original|system|existing|past)\s(?:" + _WORD + r"){0,2}?"
    r"(?:instruction|prompt|directive|guideline|rule|programming|command|order)s?\b"
)
_DROP_YOURS = (
    r"\b(?:ignore|disregard|forget|override|bypass)\s(?:all\s|any\s)?(?:of\s)?your\s(?:" + _WORD + r"){0,2}?"
    r"(?:instructions|rules|guidelines|programming|training|directives|restrictions|filters)\b"
)
_SHOW = (
    r"\b(?:reveal|print|show|repeat|output|display|leak|disclose|expose|tell|give|share)\s"
    r"(?:" + _WORD + r"){0,3}?your\s(?:" + _WORD + r"){0,2}?"
    r"(?:(?:system|initial|hidden|secret|original|confidential)\s(?:" + _WORD + r")?(?:prompt|instructions?|message)|prompt\b)"
)
_CHARACTER = (
    r"\bdo anything now\b|\byou are (?:now )?(?:going to (?:be|act as) )?dan\b|"
    r"\b(?:stay|act|respond|answer) (?:in character )?as dan\b|\[🔓? ?jailbreak(?:ed)?\]"
)
_MODE = (
    r"\b(?:enter|activate|switch to|you are (?:now )?in|simulate|act as if in)\s(?:" + _WORD + r"){0,2}?"
    r"(?:developer|dan|god|jailbreak|unrestricted|unfiltered)\smode\b"
)
_NO_LIMITS = (
    r"\b(?:you|answer|respond|reply|act)\s(?:" + _WORD + r"){0,6}?(?:without|no|free of|free from)\s(?:" + _WORD + r"){0,2}?"
    r"(?:ethical|moral|content|safety)\s(?:" + _WORD + r"){0,2}?(?:guidelines|restrictions|filters?|policies|constraints|limits)\b"
)
_DELIMITER = (
    r"<\|(?:im_start|im_end|im_sep|endoftext|system|assistant|user|start_header_id|eot_id)\|>|\[/?inst\]|<</?sys>>|"
    r"\n\s{0,4}#{2,4}\s?(?:system|new instructions?)\s?:"
)
_RULES: tuple[tuple[str, str], ...] = (
    ("drop_instructions", _DROP),
    ("drop_your_rules", _DROP_YOURS),
    ("show_prompt", _SHOW),
    ("jailbreak_character", _CHARACTER),
    ("mode_switch", _MODE),
    ("no_limits", _NO_LIMITS),
    ("forged_delimiter", _DELIMITER),
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
        """Return the names of the rules that `text` matches, in list order. A heading counts after a line break only."""
        return tuple(self._names[index] for index in sorted(self._set.Match(text) or ()))
