"""A stream gives the spans of the whole text, however it is cut: the contract of `ports.SpanDetector`."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.evidence import Span
from gateway.providers.local.recognizers.prefixes import prefix_of, unfinished
from gateway.providers.local.scanner import PatternScanner

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nwq3v0example=\n-----END RSA PRIVATE KEY-----"
ENTITIES = [
    "john.doe@example.com",
    "donna.lopez92%40mail.com",
    "p\u0430ul@\u200bicloud.com",
    "bob\\u0040example\\u002ecom",
    "4111\\u00201111\\u00201111 1111",
    "donna.lopez92%252540mail.com",
    "bob&amp;amp;#x40;example&amp;period;com",
    "bob\\\\u0040example\\\\\\\\u002ecom",
    "+1 (953) 859-1163",
    "020 7946 0958",
    "0650 995 04 94",
    "(212) 555-1234 x12",
    "tel 967 597 100",
    "4111 1111 1111 1111",
    "378282246310005",
    "4-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1",
    "DE89 3704 0044 0532 0130 00",
    "GB26YVOK09234647792923",
    "457-55-5462",
    "SSN 457 55 5462",
    "192.168.10.1",
    "2001:db8::8a2e:370:7334",
    "2e:cb:39:d8:78:44",
    "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
    "12345678Z",
    "X1234567L",
    "RSSMRA85T10A562S",
    "44051401359",
    "pesel 44051401359",
    "529.982.247-25",
    "11.222.333/0001-81",
    "AB 12 34 56 C",
    "S1234567D",
    "131052-308T",
    "MRN: MRN-2527147",
    "case no. 2020-CV-8696",
    "5:23-mc-01973-CGJ",
    "passport: W87674589",
    "driver's license number is A125325867",
    "account 1472142210",
    "date of birth: 12 March 1980",
    "born on 6/4/1967",
    "NCol: 28 28 54112",
    "517 Cedar Blvd, Madison, AZ 11193",
    "12 bis rue de la Paix, 75002 Paris",
    "Hauptstrasse 5, 10115 Berlin",
    "Calle Ginzo de Limia, 21",
    "Via Roma, 12",
    "SW1A 1AA",
    "P.O. Box 123",
    "USNV Lundberg\nFPO AA 54216",
    "zip code is 76400",
    "AKIAQYLPMN5HHHFPZAM2",
    "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",
    "sk-proj-abcdEFGH1234abcdEFGH1234XYZ",
    "password: hunter22!",
    'api_key = "9f8Kd03mNq7Zx1Vb5Lp2"',
    "postgres://bob:s3cr3tPw@db.host:5432/x",
    "Authorization: Basic dXNlcjpwYXNzd29yZDE=",
    "curl -u admin:Tr0ub4dor",
    "eyJhbGciOiJSUzI1NiJ9Cg.eyJleHAiOjY1NTM2fQo.Ce7sh0ENPiBlE_dose0cBA",
    PEM,
    "AccountKey=Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA==;",
    "&#64;",
    "DE907483378",
    "Sozialversicherungsnummer 12220966X846",
    "Handelsregister: HRB 12345",
    "SVNR 7166230983",
    "fnr 19066658247",
    "cart\u00e3o de cidad\u00e3o 550124104ZZ9",
    "CCC 43820188868919038976",
    "NPI 1756456699",
    "ACN 700294426",
    "national ID 1991057877051",
    "XAFC931124HDFGCD00",
    "RUT 12.409.669-3",
    "carta d'identit\u00e0 CA12345AA",
    "4111.1111.1111.1111",
    "card 4111, 1111, 1111, 1111",
    "4l11 1111 1111 1111",
    "card 41111111111lll11",
    "ssn 5 3 6 - 9 0 - 4 3 9 9",
    "SSN: 536.9O.4399",
    "call (2l2) 555-0143",
    "phone 2 1 2 5 5 5 0 1 4 3",
    "DE89.3704.0044.0532.0130.00",
    "D E 8 9 3 7 0 4 0 0 4 4 0 5 3 2 0 1 3 0 0 0",
    "jane [at] example [dot] com",
    "jane at mail dot example dot com",
    "jane @ example . com",
    "j a n e @ e x a m p l e . c o m",
    "203[.]0[.]113[.]57",
    "203 dot 0 dot 113 dot 57",
    "host 2O3.0.113.57",
    "-----BEGIN RSA PRIVATE KEY&#45;----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KE\\u0059-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    "my ssn is:" + ("-" + "\u200b" * 31) * 12 + " 536.90.4399",
    "my ssn" + "&amp;amp;#000045;" * 23 + " 536.90.4399",
    "gael dot varoquaux at normalesup dot org",
    "jane@example dot com",
    "203 [.] 0 [.] 113 [.] 57",
    "3056.930902.5904",
    "4.1.1.1.1.1.1.1.1.1.1.1.1.1.1.1",
    "call +1 2l2 555 0143 x12",
]
NOISE = [
    "the",
    "a",
    "in",
    "2005",
    "1999",
    "New",
    "York",
    "Street",
    "12",
    "345",
    "6789",
    "+",
    "(",
    ")",
    "-",
    "--",
    ".",
    ",",
    ":",
    ";",
    "@",
    "%4",
    "%40",
    "\\",
    "\\u",
    "\\u004",
    "%25",
    "&amp;",
    "\\\\",
    "\\u0020",
    "\\u200b",
    "&#6",
    "&",
    "\u00fc",
    "na\u00efve",
    "\u65e5\u672c",
    "\u0441\u043b\u043e\u0432\u043e",
    "\u200b",
    "\u200b" * 40,
    "e\u0301",
    "\U0001f600",
    "\uff11\uff12\uff13",
    "x",
    "password",
    "password:",
    "token =",
    "SSN",
    "IBAN",
    "key",
    "-----BEGIN",
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----END",
    "eyJ",
    "sk-",
    "AKIA",
    "://",
    "'",
    '"',
    "Rue",
    "Calle",
    "call",
    "1 2 3 4 5 6 7",
    "0" * 30,
    "a" * 40,
    "AB12",
    "DE89 3704 0044",
    "4111 1111",
    "+1 (95",
    "no.",
    "id",
    "is",
    "born",
    "at",
    "dot",
    "[at]",
    "(dot)",
    "com",
    " . ",
    "S1O5",
    "4lll",
    "card",
    "3 7 0 4",
]
BLANKS = ["", "", " ", " ", " ", "  ", "\n", "\t", "\u00a0", ", "]

SCANNER = PatternScanner(dates=True)
UNFILTERED = PatternScanner(dates=True)


def build(choice: random.Random, parts: int) -> str:
    out: list[str] = []
    for _ in range(parts):
        kind = choice.random()
        piece = choice.choice(ENTITIES) if kind < 0.35 else choice.choice(NOISE)
        if choice.random() < 0.15:
            piece = piece[: choice.randrange(len(piece) + 1)]
        out.append(piece)
        out.append(choice.choice(BLANKS))
    return "".join(out)


def stream(text: str, cuts: list[int], *, keep: int) -> list[Span]:
    """Commit as a guard does: never beyond what is viable, never inside a span, with no more than the promised context."""
    spans: list[Span] = []
    held, start, origin, at = "", 0, 0, 0
    for cut in [*cuts, len(text)]:
        held += text[at:cut]
        at = cut
        final = cut == len(text)
        upto = len(held) if final else SCANNER.viable_from(held, start)
        assert start <= upto <= len(held)
        found = SCANNER.scan(held, start)
        if not final:
            for span in reversed(found):
                if span.start < upto < span.end:
                    upto = span.start
        spans += [Span(s.start + origin, s.end + origin, s.type, s.score, s.detector) for s in found if s.start < upto]
        start = max(start, upto)
        drop = max(0, start - keep)
        held, start, origin = held[drop:], start - drop, origin + drop
    return spans


def check(seed: int, parts: int, pieces: int) -> None:
    choice = random.Random(seed)
    text = build(choice, parts)
    cuts = sorted(choice.randrange(len(text) + 1) for _ in range(pieces))
    assert stream(text, cuts, keep=SCANNER.left_context) == SCANNER.scan(text), (text, cuts)


@settings(max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**63), st.integers(1, 12), st.integers(0, 12))
def test_any_chunking_gives_the_spans_of_the_whole(seed: int, parts: int, pieces: int) -> None:
    check(seed, parts, pieces)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_random_chunkings() -> None:
    for seed in range(10_000):
        check(seed, 1 + seed % 9, 1 + seed % 17)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789 -.()+/@:abzAZeyJ%4&#;\u200b\u0430\n", max_size=200), st.data())
def test_random_noise_of_significant_characters(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    assert stream(text, cuts, keep=SCANNER.left_context) == SCANNER.scan(text)


@pytest.mark.parametrize("entity", ENTITIES)
def test_one_character_at_a_time(entity: str) -> None:
    text = f"Well then, {entity} and so on, {entity}. Done"
    assert stream(text, list(range(1, len(text))), keep=SCANNER.left_context) == SCANNER.scan(text)


@pytest.mark.parametrize(
    "unit", ["a", "1", "ab1+/", "eyJ.", "a.b@", "12-", "4111 1111 1111 1111", "1 2 ", "\u200b", "x\u200b", "password:", "%40", "A1 "]
)
def test_endless_runs_are_released_and_exact(unit: str) -> None:
    text = (unit * 20_000)[:20_000]
    cuts = list(range(997, len(text), 997))
    assert stream(text, cuts, keep=SCANNER.left_context) == SCANNER.scan(text)
    assert len(text) - SCANNER.viable_from(text) <= 8_192 + 512


def test_a_key_block_without_an_end_is_masked_up_to_the_cap() -> None:
    text = "x -----BEGIN PRIVATE KEY-----\n" + "QUJD\n" * 3_000 + "after"
    spans = SCANNER.scan(text)
    assert (spans[0].start, spans[0].end) == (2, 2 + 8_192)
    assert stream(text, list(range(500, len(text), 611)), keep=SCANNER.left_context) == spans


def test_ordinary_prose_is_held_from_the_unfinished_word_only() -> None:
    text = "The river was wide in those days and nobody crossed it without a boa"
    assert text[SCANNER.viable_from(text) :] == "boa"
    for more, held in (("t th", "th"), ("t the ", "the "), ("t a", "boat a"), ("t at the", "boat at the"), ("t at the ri", "ri")):
        assert (text + more)[SCANNER.viable_from(text + more) :] == held, "a word is held on where an address may go on behind it"


@pytest.mark.parametrize("unit", ["tok{}", "item{:03}", "ab{:02}", "v{}", "x{} y", "no. {}", "id{:02}x", "{},", "{:04}:"])
def test_what_counts_things_is_not_held_for_long(unit: str) -> None:
    text = ""
    for number in range(60):
        text += f" {unit.format(number)}"
        assert len(text) - SCANNER.viable_from(text) <= 64, text


class Exhausted:
    def Match(self, text: bytes) -> list[int]:
        return []


UNFILTERED._set = Exhausted()  # type: ignore[assignment]


@settings(max_examples=1_500, deadline=None)
@given(st.integers(0, 2**63), st.integers(1, 8))
def test_triggers_are_necessary(seed: int, parts: int) -> None:
    """What a rule finds may not depend on whether something else in the text set off its trigger."""
    text = build(random.Random(seed), parts)
    assert SCANNER.scan(text) == UNFILTERED.scan(text)


def _matches_of(pattern: str, choice: random.Random) -> str:
    """Sample a text from the small pattern language: first or random alternatives, least or random repetitions."""
    import re._parser as parser  # noqa: PLC0415

    return _sample(parser.parse(pattern), choice)


def _sample(tree: object, choice: random.Random) -> str:
    out = ""
    for op, arg in tree:  # type: ignore[attr-defined]
        name = str(op)
        if name == "LITERAL":
            out += chr(arg)
        elif name == "ANY":
            out += "q"
        elif name == "NOT_LITERAL":
            out += "q" if arg != ord("q") else "r"
        elif name == "IN":
            out += _member(arg, choice)
        elif name == "BRANCH":
            out += _sample(choice.choice(arg[1]), choice)
        elif name == "SUBPATTERN":
            out += _sample(arg[3], choice)
        elif name == "MAX_REPEAT":
            least, most, inner = arg
            for _ in range(choice.randint(least, min(most, least + 2))):
                out += _sample(inner, choice)
    return out


def _member(items: list[tuple[object, object]], choice: random.Random) -> str:
    from itertools import chain  # noqa: PLC0415

    names = [str(op) for op, _ in items]
    if "NEGATE" in names:
        return "q"
    options = list(
        chain.from_iterable(
            [chr(arg)] if str(op) == "LITERAL" else [chr(arg[0]), chr(arg[1])] if str(op) == "RANGE" else ["5"] for op, arg in items
        )
    )
    return choice.choice(options)


def test_every_prefix_of_a_match_is_held() -> None:
    import re  # noqa: PLC0415

    choice = random.Random(7)
    for recognizer in SCANNER._recognizers:
        if not recognizer.phrase:
            continue
        prefixes, held = re.compile(f"(?:{prefix_of(recognizer.phrase)})\\Z"), re.compile(f"(?:{unfinished(recognizer.phrase)})\\Z")
        for _ in range(20):
            text = _matches_of(recognizer.phrase, choice)
            whole = re.compile(recognizer.phrase)
            if whole.fullmatch(text) is None:  # the sampler does not know word boundaries
                continue
            for cut in range(len(text)):
                assert prefixes.match(text[:cut]), (recognizer.name, text, cut)
            assert held.match(text), (recognizer.name, text)
            after = whole.match(text + "!etc")
            if after is not None and after.end() == len(text):
                assert held.match(text + "!etc"), (recognizer.name, text)


HELD = [
    "0044 457 \\u200b 1999 12", "4111 1111 1111 &#49;111", "4111 1111 1111 &amp;#49;111", "4111 1111 %31111 1111", "4111 1111 1111%201111",
    "DE89 3704 0044 0532 \\u0030130 00", "call +1 (212) &#53;55 0143", "SSN 536 \\x39\\x30 4399", "4111 1111 1111 %253111 11",
]  # fmt: skip


@pytest.mark.parametrize("text", HELD)
def test_an_escape_that_is_cut_holds_what_stands_before_it(text: str) -> None:
    """It may turn out to be a blank, a digit or nothing: the number before it goes on behind it."""
    whole = SCANNER.scan(text)
    for cut in range(len(text)):
        assert stream(text, [cut], keep=SCANNER.left_context) == whole, cut
    assert stream(text, list(range(len(text))), keep=SCANNER.left_context) == whole
