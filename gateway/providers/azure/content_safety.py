"""What does Azure AI Content Safety think of a text? `RemoteModerator` over the real SDK, inside our own deadline, breaker and bulkhead.

Texts longer than the service takes are cut with overlap and the strictest answer counts; documents are shielded in groups. The SDK's
retries are off: it would wait for seconds, and longer where the service asks for it. A 429 is patience, not a fault; one broken
connection is tried again at once, since these questions change nothing. An answer that lacks what was asked for is no answer.

SECURITY: no text, and nothing the service says beyond its error codes, is in any exception or log; redirects and proxies from the
environment would take texts elsewhere, so both are off. Not verified against live Azure: `docs/azure-live-checks.md` names what to try.

Specification: Content Safety REST 2023-10-01 (analysis) and 2024-09-01 (shields, protected material), 2024-09-15-preview (groundedness).
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from gateway.evidence import Role
from gateway.ports import Aspect, InspectorUnavailable, Judgement, Question, Secret, SecretMissing, Unjudgeable, UpstreamError
from gateway.providers.azure.sdk_faults import retry_after_s
from gateway.providers.azure.text_pieces import groups, pieces, width
from gateway.upstream.breaker import Breaker, BreakerRules, Outcome

SCOPE: Final = "https://cognitiveservices.azure.com/.default"
TRAINED: Final = frozenset({"de", "en", "es", "fr", "it", "ja", "pt", "zh"})
CATEGORIES: Final[Mapping[str, str]] = {"hate": "Hate", "self_harm": "SelfHarm", "sexual": "Sexual", "violence": "Violence"}
SHIELD_VERSION: Final = "2024-09-01"
GROUNDED_VERSION: Final = "2024-09-15-preview"
PIECE: Final = 10_000
OVERLAP: Final = 200
DOCUMENTS: Final = 5
PROTECTED_PIECE: Final = 1_000
PROTECTED_OVERLAP: Final = 220
PROTECTED_LEAST: Final = 110  # a shorter text is too short to be recognised as anybody's
GROUNDED_TEXT: Final = 7_500
GROUNDED_SOURCES: Final = 55_000
_HOLD_S: Final = 1.0
_HOLD_CAP_S: Final = 30.0
_TICK_S: Final = 0.02  # an event loop's clock may be that much behind
_FAIR_SHARE: Final = 0.25
_UNTRUSTED: Final = frozenset({Role.TOOL, Role.DOCUMENT})


class _Broken(Exception):
    """The connection failed before there was an answer."""


class ContentSafety:
    """Asks one resource. `credential` is a key, as `Secret`, or an async token credential in the SDK's sense.

    `deadline_s` bounds one call of `judge` beside the caller's own deadline. Raises `ImportError` without the `azure` extra.
    """

    name = "azure-content-safety"

    def __init__(
        self,
        endpoint: str,
        credential: Any,
        *,
        deadline_s: float = 1.5,
        concurrent: int = 32,
        waiting: int = 64,
        api_version: str = "2023-10-01",
        scope: str = SCOPE,
        rejected: Callable[[float], None] | None = None,
        breaker: BreakerRules | None = None,
        mono_s: Callable[[], float] = time.monotonic,
        **sdk: Any,
    ) -> None:
        library: Any = importlib.import_module("azure.ai.contentsafety.aio")
        importlib.import_module("aiohttp")  # the SDK's transport, which it would miss only at the first request
        core: Any = importlib.import_module("azure.core.exceptions")
        self._request: Any = importlib.import_module("azure.core.rest").HttpRequest
        self._http_error: type[Exception] = core.HttpResponseError
        self._broken: tuple[type[Exception], ...] = (core.ServiceRequestError, core.ServiceResponseError)
        malformed = (ValueError, TypeError, KeyError, AttributeError)
        self._errors: tuple[type[Exception], ...] = (core.AzureError, UpstreamError, OSError, *malformed)
        self._key: Any = None
        if isinstance(credential, Secret):
            credential = self._key = importlib.import_module("azure.core.credentials").AzureKeyCredential(_key(credential))
        bounds = {"connection_timeout": deadline_s, "read_timeout": deadline_s, "retry_total": 0}
        closed = {"permit_redirects": False, "use_env_settings": False, "logging_enable": False}
        self._client: Any = library.ContentSafetyClient(
            endpoint, credential, api_version=api_version, credential_scopes=[scope], **{**bounds, **closed, **sdk}
        )
        self.version = api_version
        self._deadline_s = deadline_s
        self._gate = asyncio.Semaphore(concurrent)
        self._room = concurrent + waiting
        self._inside = 0
        self._rejected = rejected
        self._breaker = Breaker(breaker)
        self._mono_s = mono_s
        self._hold_until_s = 0.0

    def rekey(self, secret: Secret) -> None:
        """Use another key from now on. Raises `SecretMissing` for one that cannot be a header's."""
        if self._key is not None:
            self._key.update(_key(secret))

    async def judge(self, questions: Sequence[Question], deadline_s: float) -> list[Judgement]:
        """Return a judgement for each question, in order. Raises `InspectorUnavailable`, `Unjudgeable`."""
        for question in questions:
            _answerable(question)
        until_s = min(deadline_s, self._mono_s() + self._deadline_s)
        found = [_Found(question) for question in questions]
        work = [job for each in found for job in self._jobs(each, until_s)]
        work += self._shielded_documents(found, until_s)
        tasks = [asyncio.create_task(job) for job in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [each.judgement() for each in found]

    async def ready(self) -> str:
        """Return what is wrong with asking, "" if nothing is. Asks once, about a word."""
        asked = Question(text="hello", role=Role.USER, aspects=frozenset({Aspect.CATEGORIES}), heads=("violence",))
        try:
            await self.judge([asked], self._mono_s() + self._deadline_s)
        except InspectorUnavailable as no:
            return str(no)
        return ""

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.close()

    def _jobs(self, found: _Found, until_s: float) -> list[Coroutine[Any, Any, None]]:
        asked = found.question
        jobs: list[Coroutine[Any, Any, None]] = []
        if Aspect.CATEGORIES in asked.aspects:
            jobs += [self._analyzed(found, piece, until_s) for piece in pieces(asked.text, PIECE, OVERLAP)]
        if Aspect.ATTACK in asked.aspects and asked.role not in _UNTRUSTED:
            jobs += [self._shielded_prompt(found, piece, until_s) for piece in pieces(asked.text, PIECE, OVERLAP)]
        if Aspect.PROTECTED in asked.aspects and width(asked.text) >= PROTECTED_LEAST:
            cut = pieces(asked.text, PROTECTED_PIECE, PROTECTED_OVERLAP, PROTECTED_LEAST)
            jobs += [self._protected(found, piece, until_s) for piece in cut]
        if Aspect.GROUNDED in asked.aspects:
            jobs += [self._grounded(found, piece, until_s) for piece in pieces(asked.text, GROUNDED_TEXT, OVERLAP)]
        return jobs

    def _shielded_documents(self, found: Sequence[_Found], until_s: float) -> list[Coroutine[Any, Any, None]]:
        """Shield documents in as few calls as fit: five at once, ten thousand characters together."""
        parts: list[tuple[_Found, str]] = []
        for each in found:
            if Aspect.ATTACK in each.question.aspects and each.question.role in _UNTRUSTED:
                parts += [(each, piece) for piece in pieces(each.question.text, PIECE, OVERLAP)]
        grouped = groups([width(text) for _, text in parts], DOCUMENTS, PIECE)
        return [self._shielded_group([parts[at] for at in group], until_s) for group in grouped]

    async def _analyzed(self, found: _Found, text: str, until_s: float) -> None:
        asked = found.question
        body: dict[str, Any] = {
            "text": text,
            "categories": [CATEGORIES[head] for head in asked.heads],
            "outputType": "EightSeverityLevels" if asked.eight_levels else "FourSeverityLevels",
        }
        if asked.blocklists:
            body |= {"blocklistNames": list(asked.blocklists), "haltOnBlocklistHit": False}
        answer = await self._asked(lambda: self._client.analyze_text(body), until_s)
        found.severities(_field(answer, "categoriesAnalysis"))
        if asked.blocklists:
            found.matches(answer.get("blocklistsMatch"))

    async def _shielded_prompt(self, found: _Found, text: str, until_s: float) -> None:
        answer = await self._posted("/text:shieldPrompt", SHIELD_VERSION, {"userPrompt": text, "documents": []}, until_s)
        found.attack |= _flag(_field(answer, "userPromptAnalysis"), "attackDetected")

    async def _shielded_group(self, group: Sequence[tuple[_Found, str]], until_s: float) -> None:
        body = {"userPrompt": "", "documents": [text for _, text in group]}
        answer = await self._posted("/text:shieldPrompt", SHIELD_VERSION, body, until_s)
        analyses = _field(answer, "documentsAnalysis")
        if not isinstance(analyses, list) or len(analyses) != len(group):
            raise InspectorUnavailable("content safety: an answer for other documents than were sent")
        for (found, _), analysis in zip(group, analyses, strict=True):
            found.attack |= _flag(analysis, "attackDetected")

    async def _protected(self, found: _Found, text: str, until_s: float) -> None:
        answer = await self._posted("/text:detectProtectedMaterial", SHIELD_VERSION, {"text": text}, until_s)
        found.protected |= _flag(_field(answer, "protectedMaterialAnalysis"), "detected")

    async def _grounded(self, found: _Found, text: str, until_s: float) -> None:
        asked = found.question
        task = {"task": "QnA", "qna": {"query": asked.query}} if asked.query else {"task": "Summarization"}
        body = {"domain": "Generic", **task, "text": text, "groundingSources": list(asked.sources), "reasoning": False}
        answer = await self._posted("/text:detectGroundedness", GROUNDED_VERSION, body, until_s)
        found.ungrounded |= _flag(answer, "ungroundedDetected")

    async def _posted(self, path: str, version: str, body: Any, until_s: float) -> Mapping[str, Any]:
        """Ask what the SDK has no method for, over its own pipeline."""

        async def work() -> Mapping[str, Any]:
            request = self._request("POST", path, params={"api-version": version}, json=body)
            response = await self._client.send_request(request)
            if response.status_code != 200:
                response.raise_for_status()
                raise InspectorUnavailable(f"content safety answered {response.status_code}")
            found: Any = response.json()
            if not isinstance(found, dict):
                raise ValueError("no object")
            answer: dict[str, Any] = found
            return answer

        asked: Mapping[str, Any] = await self._asked(work, until_s)
        return asked

    async def _asked(self, work: Callable[[], Awaitable[Any]], until_s: float) -> Any:
        """Ask once, a second time only where the first connection broke. Raises `InspectorUnavailable`."""
        try:
            return await self._attempt(work, until_s)
        except _Broken:
            try:
                return await self._attempt(work, until_s)
            except _Broken:
                raise InspectorUnavailable("content safety cannot be reached") from None

    async def _attempt(self, work: Callable[[], Awaitable[Any]], until_s: float) -> Any:
        """INVARIANT: the place in the bulkhead and the breaker's ticket are given back on every path."""
        if self._inside >= self._room:
            raise InspectorUnavailable("content safety: too many questions at once")
        self._inside += 1
        try:
            async with asyncio.timeout(max(0.0, until_s - self._mono_s())):
                async with self._gate:
                    return await self._ticketed(work, until_s)
        except TimeoutError:
            raise InspectorUnavailable("content safety did not answer in time") from None
        finally:
            self._inside -= 1

    async def _ticketed(self, work: Callable[[], Awaitable[Any]], until_s: float) -> Any:
        now_s = self._mono_s()
        if now_s < self._hold_until_s:
            raise InspectorUnavailable("content safety asked for patience")
        ticket = self._breaker.admit(now_s)
        if ticket is None:
            raise InspectorUnavailable("content safety is left alone after faults")
        outcome = Outcome.FAULT
        try:
            answer = await work()
            outcome = Outcome.SUCCESS
            return answer
        except asyncio.CancelledError:
            # A deadline it was given time for is a fault of the service; a client that left, or a sister that failed, says nothing of it.
            ended_s = self._mono_s()
            late = ended_s >= until_s - _TICK_S and ended_s - now_s >= self._deadline_s * _FAIR_SHARE
            outcome = Outcome.FAULT if late else Outcome.NEUTRAL
            raise
        except InspectorUnavailable:
            raise
        except self._errors as fault:
            outcome, unavailable = self._judged(fault)
            # SECURITY: `from None`: the fault may hold the question.
            raise unavailable from None
        finally:
            self._breaker.report(ticket, outcome, self._mono_s())

    def _judged(self, fault: Exception) -> tuple[Outcome, Exception]:
        if isinstance(fault, UpstreamError):
            return Outcome.NEUTRAL, InspectorUnavailable(f"content safety: no token: {fault.detail}")
        status = getattr(fault, "status_code", None)
        if isinstance(fault, self._broken):
            return Outcome.FAULT, _Broken()
        if not isinstance(fault, self._http_error) or not isinstance(status, int) or 200 <= status < 300:
            return Outcome.FAULT, InspectorUnavailable("content safety: an answer that cannot be read")
        code = getattr(getattr(fault, "error", None), "code", None)
        named = f" {code}" if isinstance(code, str) and code.isascii() and code.isalnum() and len(code) <= 64 else ""
        if status == 429:
            wished_s = retry_after_s(getattr(getattr(fault, "response", None), "headers", None)) or _HOLD_S
            self._hold_until_s = self._mono_s() + min(wished_s, _HOLD_CAP_S)
            return Outcome.NEUTRAL, InspectorUnavailable("content safety is rate limited (429)")
        if status == 401 and self._rejected is not None:
            self._rejected(time.time())
        outcome = Outcome.NEUTRAL if status in (400, 404, 413, 422) else Outcome.FAULT
        return outcome, InspectorUnavailable(f"content safety answered {status}{named}")


class _Found:
    """What the pieces of one question have shown so far."""

    __slots__ = ("_hits", "_severities", "attack", "protected", "question", "ungrounded")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.attack = False
        self.protected = False
        self.ungrounded = False
        self._severities: dict[str, int] = {}
        self._hits: set[str] = set()

    def severities(self, analyses: Any) -> None:
        """Take the severities of one piece. Raises `InspectorUnavailable` unless every head asked for has one."""
        named = {a.get("category"): a.get("severity") for a in analyses if isinstance(a, Mapping)} if isinstance(analyses, list) else {}
        for head in self.question.heads:
            severity = named.get(CATEGORIES[head])
            if type(severity) is not int or not 0 <= severity <= 7:
                raise InspectorUnavailable("content safety: an answer without a category that was asked for")
            self._severities[head] = max(severity, self._severities.get(head, 0))

    def matches(self, matches: Any) -> None:
        """Take the matches of one piece; the service may leave the list out where it is empty. Raises `InspectorUnavailable`."""
        if matches is not None and not isinstance(matches, list):
            raise InspectorUnavailable("content safety: matches that are no list")
        for match in matches or ():
            name = match.get("blocklistName") if isinstance(match, Mapping) else None
            if name not in self.question.blocklists:
                raise InspectorUnavailable("content safety: a match of a list that was not asked for")
            self._hits.add(str(name))

    def judgement(self) -> Judgement:
        severities = {head: self._severities.get(head, 0) for head in self.question.heads}
        return Judgement(
            severities=severities,
            attack=self.attack,
            protected=self.protected,
            ungrounded=self.ungrounded,
            blocklists=tuple(sorted(self._hits)),
        )


def _answerable(question: Question) -> None:
    if unknown := [head for head in question.heads if head not in CATEGORIES]:
        raise Unjudgeable(f"content safety does not know the category `{unknown[0]}`")
    if question.language != "und" and question.language not in TRAINED:
        raise Unjudgeable(f"content safety is not trained for the language `{question.language}`")
    if Aspect.GROUNDED in question.aspects:
        if not question.sources or sum(width(source) for source in question.sources) > GROUNDED_SOURCES:
            raise Unjudgeable(f"content safety checks groundedness against sources of 1 to {GROUNDED_SOURCES} characters")
        if width(question.query) > GROUNDED_TEXT:
            raise Unjudgeable(f"content safety checks groundedness for questions of at most {GROUNDED_TEXT} characters")


def _field(answer: Any, name: str) -> Any:
    if not isinstance(answer, Mapping) or name not in answer:
        raise InspectorUnavailable("content safety: an answer without what was asked for")
    return answer[name]


def _flag(analysis: Any, name: str) -> bool:
    value = analysis.get(name) if isinstance(analysis, Mapping) else None
    if not isinstance(value, bool):
        raise InspectorUnavailable("content safety: an answer without what was asked for")
    return value


def _key(secret: Secret) -> str:
    try:
        text = secret.reveal().decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise SecretMissing("`content_safety.key`: holds a character that a header cannot")
    return text
