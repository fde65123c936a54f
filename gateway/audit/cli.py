"""`gateway audit ...`: the auditor's commands. Exit codes: 0 in order, 1 a finding, 2 wrong use.

Must not need a running gateway or its settings; holds no rule of its own about what a whole log is.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.audit import segments
from gateway.audit.export import FORMATS
from gateway.audit.query import Filter, Hit, LogReader, check_proof, count
from gateway.audit.record import escape, parse, rfc3339
from gateway.audit.store import read_file
from gateway.audit.tree import MAX_NOTE_BYTES, TreeError, Verifier
from gateway.audit.verify import Report, verify

OK, FINDING, USAGE = 0, 1, 2
_MAX_PROOF_BYTES: Final = 1 << 20
_DIRECTORY: Final = Path(".quickstart/audit")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
Handler = Callable[[argparse.Namespace], int]


class _UsageError(Exception):
    pass


def add_arguments(subparsers: Any) -> None:
    """Add `audit` to a command's subparsers. Each command sets `handler`: a function of the parsed arguments to an exit code."""
    audit = subparsers.add_parser(
        "audit", help="verify and read the tamper-evident log", epilog="example: gateway audit verify .quickstart/audit"
    )
    commands = audit.add_subparsers(dest="audit_command", required=True, metavar="COMMAND")

    def add(name: str, handler: Handler, about: str, example: str, *, directory: bool = True) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name, help=about, description=about, epilog=f"example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if directory:
            parser.add_argument("directory", type=Path, metavar="DIR", help="the audit directory")
        parser.add_argument("--key", metavar="PUB", help="verifier key: a file or its text (default: DIR/key.pub)")
        parser.add_argument("--json", action="store_true", help="for a machine to read")
        parser.set_defaults(handler=_guarded(handler))
        return parser

    one = add("verify", _verify, "prove that a log is whole", "gateway audit verify .quickstart/audit --key gateway.pub")
    about = "kept elsewhere: a checkpoint or a shipped segment; several"
    one.add_argument("--against", action="append", default=[], type=Path, metavar="CHECKPOINT", help=about)
    one = add("query", _query, "print the records that match", "gateway audit query audit --tenant acme --outcome blocked --since 24h")
    one.add_argument("--index", type=int, help="the record at this index alone")
    one.add_argument("--limit", type=int, default=1000, help="at most so many (default 1000)")
    _add_filter(one)
    one = add("tail", _tail, "print the last records, and follow", "gateway audit tail audit -f --tenant acme")
    one.add_argument("-n", type=int, default=10, dest="lines", help="how many (default 10)")
    one.add_argument("-f", "--follow", action="store_true", help="go on as records become durable")
    _add_filter(one)
    one = add("prove", _prove, "print or check a proof of a record's place", "gateway audit prove audit 1234 > proof.json", directory=False)
    one.add_argument("place", nargs="*", metavar="[DIR] INDEX", help=f"the audit directory (default {_DIRECTORY}) and the record's index")
    one.add_argument("--check", type=Path, metavar="FILE", help="check this proof instead; DIR serves for its key alone")
    one = add("export", _export, "print records as another system's events", "gateway audit export audit --format ocsf --since 1h")
    one.add_argument("--format", choices=sorted(FORMATS), required=True)
    _add_filter(one)
    one = add("report", _report, "count outcomes, refusals and tenants, and verify", "gateway audit report audit --since 7d")
    one.add_argument("--since", help="RFC 3339 time, or a span such as 90m, 24h, 7d")


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--type", help="opened, closed, refused, summary, ...")
    parser.add_argument("--tenant")
    parser.add_argument("--subject", help="the subject's pseudonym")
    parser.add_argument("--outcome", help="finished, blocked, cut, client_gone, failed, unknown")
    parser.add_argument("--refusal", help="a refusal's code")
    parser.add_argument("--request-id", help="all records of one exchange")
    parser.add_argument("--since", help="RFC 3339 time, or a span such as 90m, 24h, 7d")


def _guarded(handler: Handler) -> Handler:
    def run(arguments: argparse.Namespace) -> int:
        try:
            return handler(arguments)
        except _UsageError as error:
            print(f"gateway audit: {error}", file=sys.stderr)
            return USAGE
        except (OSError, TreeError) as error:
            if isinstance(error, BrokenPipeError):
                return OK
            print(f"gateway audit: the log cannot be read: {error}", file=sys.stderr)
            return FINDING

    return run


# --- arguments


def _key(arguments: argparse.Namespace) -> tuple[str, bool]:
    """Return the verifier key and whether it came from the log's own directory, which proves nothing about who signed."""
    given: str | None = arguments.key
    if given is not None and re.fullmatch(r"[^+\s]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+", given) and not Path(given).exists():
        return given, False
    path = Path(given) if given is not None else arguments.directory / "key.pub"
    try:
        text = read_file(path, MAX_NOTE_BYTES).decode("utf-8", "replace").strip()
        Verifier(text)
    except (OSError, TreeError) as error:
        raise _UsageError(f"no verifier key in `{path}`: {error}; give one with --key") from error
    return text, given is None


def _reader(arguments: argparse.Namespace) -> LogReader:
    if not arguments.directory.is_dir():
        raise _UsageError(f"`{arguments.directory}` is no directory")
    return LogReader(arguments.directory, Verifier(_key(arguments)[0]))


def _since(text: str | None) -> str | None:
    if text is None:
        return None
    span = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if span:
        return rfc3339(max(0.0, time.time() - int(span[1]) * _UNITS[span[2]]))
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]{2,12}Z?)?", text):
        raise _UsageError(f"`{text}` is no time: write 2026-11-23T10:00:00Z or 90m, 24h, 7d")
    return text.removesuffix("Z")


def _filter(arguments: argparse.Namespace) -> Filter:
    names = ("type", "tenant", "subject", "outcome", "refusal", "request_id")
    return Filter(**{name: getattr(arguments, name) for name in names}, since=_since(arguments.since))


def _print(value: object) -> None:
    sys.stdout.write(escape(msgspec.json.encode(value)).decode() + "\n")
    sys.stdout.flush()


def _show(arguments: argparse.Namespace, index: int, fields: dict[str, Any]) -> None:
    if arguments.json:
        _print({"index": index, **fields})
        return
    parts = [fields.get(name) for name in ("time", "type", "outcome", "refusal", "tenant", "route", "request_id")]
    # SECURITY: record texts reach a terminal here; anything that is not printable is shown, not obeyed.
    line = "  ".join(str(part) for part in parts if part)
    print(f"{index:>9}  {''.join(c if c.isprintable() else '?' for c in line)}", flush=True)


# --- commands


def _verify(arguments: argparse.Namespace) -> int:
    if not arguments.directory.is_dir():
        raise _UsageError(f"`{arguments.directory}` is no directory")
    key, own = _key(arguments)
    try:
        against = [_anchor(path) for path in arguments.against]
    except OSError as error:
        raise _UsageError(f"a checkpoint to hold the log against cannot be read: {error}") from error
    report = verify(arguments.directory, key, against)
    if own:
        report.notes.append("the key came from the log's own directory: give --key to know who signed")
    if not report.tail_proven:
        report.notes.append("tail not proven: hold the log against a checkpoint kept elsewhere (--against)")
    if arguments.json:
        _print({"ok": report.ok, **msgspec.to_builtins(report)})
    else:
        _show_report(report)
    return OK if report.ok else FINDING


def _anchor(path: Path) -> bytes:
    """Return a checkpoint kept elsewhere: a signed note, or the last one in a shipped segment. Raises `OSError`."""
    with path.open("rb") as file:
        head = file.read(MAX_NOTE_BYTES + 1)
        if not head.startswith(b"{"):
            return read_file(path, MAX_NOTE_BYTES)
        file.seek(max(0, file.seek(0, 2) - segments.TAIL_BYTES))
        notes = segments.checkpoints(file.read(segments.TAIL_BYTES))
    if not notes:
        raise OSError(f"`{path}` holds no checkpoint at its end")
    return notes[-1]


def _show_report(report: Report) -> None:
    for finding in report.findings:
        where = "" if finding.index is None else f" at {finding.index}"
        print(f"{finding.code}{where}: {finding.detail}")
    if report.left_out:
        print(f"and {report.left_out} more")
    for note in report.notes:
        print(f"note: {note}")
    verdict = "ok" if report.ok else f"NOT WHOLE: {len(report.findings) + report.left_out} findings"
    proven = ", tail proven" if report.tail_proven else ""
    counts = f"{report.size} records, {report.published} published, {report.runs} runs, {report.in_flight} in flight"
    print(f"{verdict}: {report.origin}, {counts}{proven}, root {report.root[:16]}")


def _query(arguments: argparse.Namespace) -> int:
    reader = _reader(arguments)
    if arguments.index is not None:
        try:
            record = reader.get(arguments.index)
        except IndexError as error:
            print(f"gateway audit: {error}", file=sys.stderr)
            return FINDING
        _print_record(record)
        return OK
    for number, (index, _, fields) in enumerate(reader.select(_filter(arguments))):
        if number >= max(0, arguments.limit):
            print(f"gateway audit: stopped at {number}; raise --limit for more", file=sys.stderr)
            break
        _show(arguments, index, fields)
    return OK


def _print_record(record: bytes) -> None:
    try:
        _print(parse(record))
    except ValueError as error:
        raise TreeError(str(error)) from error


def _tail(arguments: argparse.Namespace) -> int:
    reader, asked = _reader(arguments), _filter(arguments)
    lines = max(0, arguments.lines)
    start, found = reader.size, list[Hit]()
    step = max(256, lines)
    while start > 0 and len(found) < lines:  # backwards, so that the end of a long log costs no reading of its beginning
        begin = max(0, start - step)
        found = [hit for hit in reader.select(asked, begin) if hit.at < start] + found
        start, step = begin, step * 4
    for index, _, fields in found[-lines:] if lines else ():
        _show(arguments, index, fields)
    if arguments.follow:
        try:
            for index, _, fields in reader.follow(asked, reader.size, pause=_pause):
                _show(arguments, index, fields)
        except KeyboardInterrupt:
            return OK
    return OK


def _pause() -> bool:
    time.sleep(0.25)
    return True


def _prove(arguments: argparse.Namespace) -> int:
    numbers = [text for text in arguments.place if re.fullmatch(r"[0-9]{1,18}", text)]
    names = [text for text in arguments.place if text not in numbers]
    if len(numbers) > 1 or len(names) > 1:
        raise _UsageError("say one record: prove [DIR] INDEX")
    arguments.directory = Path(names[0]) if names else _DIRECTORY
    if arguments.check is not None:
        return _check(arguments)
    if not numbers:
        raise _UsageError("say which record: prove [DIR] INDEX")
    try:
        _print(_reader(arguments).prove(int(numbers[0])))
    except IndexError as error:
        print(f"gateway audit: {error}", file=sys.stderr)
        return FINDING
    return OK


def _check(arguments: argparse.Namespace) -> int:
    key, _ = _key(arguments)
    try:
        data = read_file(arguments.check, _MAX_PROOF_BYTES)
    except OSError as error:
        raise _UsageError(f"the proof cannot be read: {error}") from error
    try:
        proof: object = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        proof = None
    wrong = check_proof(proof, Verifier(key))
    if arguments.json:
        _print({"ok": not wrong, "reason": wrong})
    else:
        print(f"does not hold: {wrong}" if wrong else "holds")
    return FINDING if wrong else OK


def _export(arguments: argparse.Namespace) -> int:
    reader, convert = _reader(arguments), FORMATS[arguments.format]
    for index, record, fields in reader.select(_filter(arguments)):
        _print(convert(index, record, fields))
    return OK


def _report(arguments: argparse.Namespace) -> int:
    reader = _reader(arguments)
    counts = count(reader, _since(arguments.since))
    report = verify(arguments.directory, _key(arguments)[0])
    if arguments.json:
        _print({"counts": counts, "integrity": {"ok": report.ok, **msgspec.to_builtins(report)}})
    else:
        for name, by in counts.items():
            print(f"by {name}: " + (", ".join(f"{key or '-'} {number}" for key, number in by.items()) or "none"))
        _show_report(report)
    return OK if report.ok else FINDING
