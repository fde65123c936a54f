"""Which values are secrets because of what stands before them? Passwords in prose, code, YAML, environments, URLs and command lines.

The keyword is context on the left; the span is the value. A keyword alone proves nothing: the value must look chosen or generated, not like
a word, a path, a call, a placeholder or another identifier.
"""

from __future__ import annotations

import base64
import binascii
import re

from gateway.providers.local.recognizers.base import SECRET_RANK, Check, Reading, Recognizer, Rule
from gateway.providers.local.recognizers.secrets import entropy

_STRONG = (
    "pass(?:word|wd|phrase|code|wort)?s?|pwd?|passwd|contrase.a|mot de passe|wachtwoord|kennwort|senha|haslo|secret|token|"
    "api[ _-]?key|access[ _-]?key|"
    "auth(?:entication|orization|enticity)?(?:[ _-]?(?:key|token))?|credentials?|private[ _-]?key|client[ _-]?secret|"
    "account[ _-]?key|shared[ _-]?access[ _-]?(?:key|signature)|"
    "signing[ _-]?key|encryption[ _-]?key|secret[ _-]?key|bearer|nonce|salt|[a-z]*key"
)
_TAIL = r"[A-Za-z0-9]{0,12}(?:[._-][A-Za-z0-9]{1,16}){0,2}"
_CLOSE = r"(?:\\{0,3}[\"'`]|\])?"
_TYPED = r"(?: ?: ?(?:String|str|string|&str|char ?\*?|const char ?\*))?"
_ASSIGN = r"[ \t]{0,4}(?::=|=>|->|==|=|:|,)[ \t\n]{0,3}"
_KEYWORD = rf"(?i:(?:^|[^A-Za-z]|[a-z_])(?:{_STRONG}))"
_QUOTE = r"(?:[bruf@$L]{0,2}\\{0,3}[\"'`]{1,3})"
_QUOTED = r"[^\s\"'`\\<>]{4,256}"
_BARE = r"[^\s\"'`<>,;(){}\[\]|&\\]{6,256}"

_WORD = re.compile(rb"[A-Za-z]+|[a-z]+(?:[_-][a-z]+)+|[A-Z]+(?:_[A-Z]+)+")
_PATH = re.compile(
    rb"(?:[A-Za-z_][\w]*(?:\.|->|::|/)){1,}[A-Za-z_]\w*\(?\)?;?|[A-Za-z_]\w*\(.*|/[\w./-]+|[a-z]+://.*|\$?\{?\{?[\w.]+\}?\}?"
)
_FILLER = re.compile(
    rb"(?i)x{4}|\*{3}|\.{3}|^\$\{|^\$\(|^\{\{|^%\(|^<|^\[|example|placeholder|your|change_?me|redacted|dummy|^(?:none|null|nil|"
    rb"true|false|undefined|"
    rb"string|required|optional|default|todo|password|secret|token|process\.env|os\.environ|getenv).{0,12}$|^12345|^0+$|^(.)\1+$"
)
_KINDS = re.compile(rb"[a-z]"), re.compile(rb"[A-Z]"), re.compile(rb"[0-9]"), re.compile(rb"[^0-9A-Za-z]")
_DATE_OR_NUMBER = re.compile(rb"[0-9.,:/TZ+-]+|v?[0-9]+(?:\.[0-9A-Za-z]+)+|[0-9]+[a-zA-Z]{1,3}")


def _kinds(value: bytes) -> int:
    return sum(kind.search(value) is not None for kind in _KINDS)


# Words that merely contain a keyword.
_INNOCENT = re.compile(
    rb"passport|passenger|passag|compass|bypass|passed|passing|author(?!i[sz])|keyboard|keyword|monkey|turkey|tokeni|"
    rb"public[ _-]?key|pwdump|mask"
)
_HUMPS = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+")


def _scrambled(value: bytes) -> bool:
    """Letters whose case changes too often for words: `kFJSgOmU`."""
    humps = _HUMPS.findall(value)
    return value.isalpha() and len(value) >= 8 and len(humps) >= 3 and len(value) < 3 * len(humps)


def _chosen(*, quoted: bool, generated: bool) -> Check:
    """Judge a value. `generated` asks for what a machine makes (keys, tokens); otherwise what a person would choose is enough."""

    def check(reading: Reading, start: int, end: int) -> bool:
        value = reading.data[start:end]
        if _FILLER.search(value) or _DATE_OR_NUMBER.fullmatch(value) or _INNOCENT.search(reading.before(start, 40)):
            return False
        if quoted and _scrambled(value):
            return True
        if generated:
            return _generated(value)
        if _WORD.fullmatch(value):
            return False
        path = _PATH.fullmatch(value)
        if path is not None and (not quoted or b"/" in value) and not re.search(rb"[0-9]", value):
            return False
        return (
            _kinds(value) >= (2 if quoted else 3)
            or (len(value) >= 12 and _generated(value))
            or (_kinds(value) >= 2 and bool(_KINDS[2].search(value)))
        )

    return check


def _generated(value: bytes) -> bool:
    if len(value) < 10 or _WORD.fullmatch(value) or not _KINDS[2].search(value):
        return False
    return entropy(value) >= (3.0 if len(value) < 20 else 3.2) and not re.search(rb"[/.:](?:[a-z]{3,}[/.:]){2}", value)


def _userinfo(reading: Reading, start: int, end: int) -> bool:
    value = reading.data[start:end]
    return not _FILLER.search(value) and not re.fullmatch(rb"(?i)pass(?:word|wd)?|pwd|secret|token|user", value)


def _base64_pair(reading: Reading, start: int, end: int) -> bool:
    value = reading.data[start:end]
    return _kinds(value) >= 2 and not _FILLER.search(value)


def _basic(reading: Reading, start: int, end: int) -> bool:
    """The credentials of RFC 7617 hold a colon once decoded."""
    value = reading.data[start:end].rstrip(b"=")
    try:
        return b":" in base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return False


_PASSWORDS = "pass(?:phrase|code|wort)?s?|pa?s{1,2}wo?r?ds?|pwd|pw|contrase.a|wachtwoord|kennwort|senha"
_END = r"(?:$|[\s\"'`<>,;(){}\[\]|&\\])"
_LEAST = re.compile(r"(\[(?:\\.|[^\]\\])+\])\{([0-9]+),[0-9]+\}")


def _secret(name: str, span: str, left: str, right: str, check: Check, score: float = 0.85) -> Rule:
    """The trigger is the left side and the least of the span. INVARIANT: what the rule matches, its trigger matches too."""
    least = _LEAST.match(span)
    trigger = left + (f"{least.group(1)}{{{least.group(2)}}}" if least is not None else f"(?:{span})")
    return Rule(name, "SECRET", span, left=left, right=right, check=check, trigger=trigger, score=score, rank=SECRET_RANK)


def recognizers() -> list[Recognizer]:
    return [*_passwords(), *_keys(), *_transported(), *_commanded()]


def _passwords() -> list[Rule]:
    return [
        _secret(
            "password_quoted",
            _QUOTED,
            rf"(?i:{_PASSWORDS}){_TAIL}{_CLOSE}{_TYPED}{_ASSIGN}{_QUOTE}",
            r"(?:\\{0,3}[\"'`]|$)",
            _chosen(quoted=True, generated=False),
        ),
        _secret(
            "password_bare",
            _BARE,
            rf"(?i:{_PASSWORDS}){_TAIL}{_CLOSE}[ \t]{{0,2}}(?:=|:|->|=>)[ \t]{{0,2}}",
            _END,
            _chosen(quoted=False, generated=False),
            0.8,
        ),
        _secret(
            "password_prose",
            _BARE,
            rf"(?i:\b(?:{_PASSWORDS}|pin)(?: (?:for|to) [a-z]{{2,12}})? (?:is|was|ist|es|est)[ :]{{1,2}})[\"'`]?",
            r"(?:$|[\s\"'`<>,;)])",
            _chosen(quoted=False, generated=False),
            0.75,
        ),
        _secret(
            "password_literal",
            _QUOTED,
            rf"(?i:{_PASSWORDS})[ ]{{1,2}}{_QUOTE}",
            r"(?:\\{0,3}[\"'`]|$)",
            _chosen(quoted=True, generated=False),
        ),
    ]


def _keys() -> list[Rule]:
    return [
        _secret(
            "keyed_quoted",
            _QUOTED,
            rf"(?i:{_STRONG}){_TAIL}{_CLOSE}{_TYPED}{_ASSIGN}{_QUOTE}",
            r"(?:\\{0,3}[\"'`]|$)",
            _chosen(quoted=True, generated=True),
        ),
        _secret(
            "keyed_bare",
            _BARE,
            rf"(?i:{_STRONG}){_TAIL}{_CLOSE}[ \t]{{0,2}}(?:=|:|->|=>)[ \t]{{0,2}}",
            _END,
            _chosen(quoted=False, generated=True),
            0.8,
        ),
        _secret(
            "keyed_prose",
            r"[0-9A-Za-z_+/=.-]{14,256}",
            r"(?i:(?:secret|token|key|bearer)(?: is)?[ ]{1,2})[\"'`]?",
            r"(?:$|[\s\"'`<>,;)])",
            _chosen(quoted=False, generated=True),
            0.75,
        ),
    ]


def _transported() -> list[Rule]:
    return [
        _secret(
            "url_password",
            r"[^\s:@/\"'`<>]{3,128}",
            r"[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s/:@\"'`<>]{0,40}(?:@[a-z0-9.]{3,20})?:",
            "@",
            _userinfo,
            0.95,
        ),
        _secret(
            "basic_auth",
            r"[0-9A-Za-z+/_-]{6,400}={0,2}",
            r"(?i:\bbasic[ ]{1,2})",
            _END + "|:",
            _basic,
            0.9,
        ),
        _secret(
            "bearer_auth",
            r"[0-9A-Za-z+/_.~-]{10,500}={0,2}",
            r"(?i:\b(?:bearer|token|apikey)[ :]{1,2})",
            _END,
            _chosen(quoted=False, generated=True),
            0.9,
        ),
        _secret(
            "auth_header",
            r"[0-9A-Za-z+/_.=~:-]{10,400}",
            r"(?i:(?:authorization|x-api-key|x-auth-token|private-token)[\"']?[ ]?[:=][ ]?[\"']?)",
            _END,
            _chosen(quoted=False, generated=True),
            0.9,
        ),
    ]


def _commanded() -> list[Rule]:
    return [
        _secret(
            "curl_user",
            r"[^\s\"'`:]{3,128}",
            r"(?:-u|--user)[ =]?[\"']?[^\s\"'`:]{0,40}[\"']?:[\"']?",
            r"(?:$|[\s\"'`])",
            _userinfo,
            0.85,
        ),
        _secret(
            "option",
            r"[^\s\"'`\\<>]{6,128}",
            r"(?i:-{1,2}[a-z0-9_-]{0,16}(?:password|passphrase|pass|token|secret|bearer|api-?key)[ =]{1,2})\\?[\"'`]?",
            r"(?:$|[\s\"'`\\])",
            _chosen(quoted=True, generated=False),
            0.85,
        ),
        _secret(
            "sql",
            r"[^\s\"'`\\]{4,128}",
            r"(?i:identified by(?: password)?|with password|set password ?=|password\()[ ]?\\?[\"'`]?",
            r"(?:$|\\?[\s\"'`;])",
            _userinfo,
            0.95,
        ),
        _secret(
            "connection_string",
            r"[0-9A-Za-z+/%_-]{20,200}={0,2}",
            r"(?i:(?:accountkey|sharedaccesskey|accesskey|primarykey|sig|signature|authkey)=)",
            "",
            _base64_pair,
            0.95,
        ),
        _secret(
            "connection_password",
            r"[^\s;\"']{4,128}",
            r"(?i:;[ ]?(?:pwd|password)=)[{]?",
            r"(?:$|[;\s\"'])",
            _userinfo,
            0.95,
        ),
    ]
