"""To whom does a screened request go, and what comes back? The one step that lets anything leave for a backend.

The request is built from nothing: a path from settings, our own headers, a body that was inspected as it is sent. Another
backend is tried only before the first byte of an answer, only within the retry budget (attempts that never reached a backend
cost it nothing), each backend once. A backend that asked for patience gets it. Nothing a backend says in an error is passed on.

It must not look into prompts or answers, and it must not decide whether the caller may: its argument is the proof of both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from gateway import refusals
from gateway.evidence import Dialect, Operation, ScreenedRequest, Subject
from gateway.ports import BackendCredential, CallerHeaders, UpstreamError
from gateway.refusals import Refusal
from gateway.upstream.answer import Answer, UpstreamFiltered
from gateway.upstream.breaker import Breaker, BreakerRules, Outcome, State, Ticket
from gateway.upstream.client import BackendClient
from gateway.upstream.errors import Failure, Trouble, error_code, failure_of_error, failure_of_status, filtered_categories, is_too_long
from gateway.upstream.response import Response
from gateway.upstream.retry import BudgetRules, RetryBudget
from gateway.upstream.route import Backend, Route, order, upstream_path

_ERROR_BYTES = 65_536  # an Azure filter body is about 1 KB
_ERROR_S = 2.0
_HOLD_DEFAULT_S = 1.0  # after a 429 that names no time
_HOLD_CAP_S = 30.0  # a longer wish is told to the caller, but the backend is asked again after this

_SENDS_JSON = (b"content-type", b"application/json")
_TAKES_JSON = (b"accept", b"application/json")
_TAKES_EVENTS = (b"accept", b"text/event-stream")

CredentialSource = Callable[[Backend], Sequence[tuple[bytes, bytes]] | None]
"""Returns our own credential headers for a backend, from memory; None where the backend's identity has to be asked for them."""


class _Slot:
    """What is remembered about one backend."""

    __slots__ = ("backend", "breaker", "client", "hold_until_s", "told_until_s")

    def __init__(self, backend: Backend, client: BackendClient, rules: BreakerRules) -> None:
        self.backend = backend
        self.client = client
        self.breaker = Breaker(rules)
        self.hold_until_s = 0.0  # do not ask before (monotonic)
        self.told_until_s = 0.0  # what the backend wished, uncapped


class _Task(msgspec.Struct, frozen=True):
    """The parts of one request that are the same for every backend."""

    route: str
    model: str
    operation: Operation
    stream: bool
    payload: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    deadline_s: float
    subject: Subject
    caller: CallerHeaders | None


class Forwarder:
    """Sends screened requests to the backends of their route. One for a process; `clients` are keyed by backend name."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        clients: Mapping[str, BackendClient],
        *,
        credentials: CredentialSource,
        identities: Mapping[str, BackendCredential] | None = None,
        draw: Callable[[], float],
        breaker: BreakerRules | None = None,
        budget: BudgetRules | None = None,
        user_agent: str = "inference-gateway",
    ) -> None:
        self._routes = dict(routes)
        self._credentials = credentials
        self._identities = dict(identities or {})
        self._draw = draw
        self._budgets = {name: RetryBudget(budget) for name in self._routes}
        self._agent = (b"user-agent", user_agent.encode("ascii"))
        self._slots: dict[str, _Slot] = {}
        self._paths: dict[tuple[str, str, Operation], str | None] = {}
        for route in self._routes.values():
            for backend in route.backends:
                for operation in Operation:
                    self._paths[route.name, backend.name, operation] = upstream_path(backend, route.name, operation)
                known = self._slots.get(backend.name)
                if known is None:
                    self._slots[backend.name] = _Slot(backend, clients[backend.name], breaker or BreakerRules())
                elif known.backend != backend:
                    raise ValueError(f"backend `{backend.name}` is declared in two ways")

    async def forward(
        self,
        screened: ScreenedRequest,
        *,
        deadline_s: float,
        request_id: str = "",
        traceparent: str = "",
        caller: CallerHeaders | None = None,
    ) -> Answer | UpstreamFiltered:
        """Return the first good answer. `deadline_s` is monotonic and bounds everything, the body included.

        `caller` is for backends that are asked on behalf of the person; nothing else reads it. The caller must `aclose` an
        `Answer` on every path. Raises `Refusal` (BACKEND_UNAVAILABLE, BACKEND_TIMEOUT, OVERLOADED, RATE_LIMITED,
        INVALID_REQUEST; on behalf of a person also INVALID_TOKEN and POLICY_DENIED), with nothing held.
        """
        permit = screened.valid.permit
        route = self._routes.get(permit.route)
        if route is None:
            raise Refusal(refusals.BACKEND_UNAVAILABLE, detail="route has no backends")
        task = self._task(screened, deadline_s, request_id, traceparent, caller)
        budget = self._budgets[route.name]
        budget.earn()
        candidates = list(order(route, permit.obligations.regions, self._draw() if route.spread else 0.0))
        single = len(candidates) == 1
        failures: list[Failure] = []
        attempts = 0
        seen = 0  # attempts a backend may have seen
        for backend in candidates:  # may grow once, below
            slot = self._slots[backend.name]
            now_s = time.monotonic()
            passed = _pass_over(slot, now_s)
            if passed is not None:
                failures.append(passed)
                continue
            ticket = slot.breaker.admit(now_s)
            if ticket is None:
                failures.append(_skipped(slot, Trouble.OPEN, slot.breaker.retry_after_s(now_s)))
                continue
            if seen and not budget.spend():
                slot.breaker.report(ticket, Outcome.NEUTRAL, now_s)
                break
            attempts += 1
            result = await self._attempt(slot, backend, ticket, task, attempts)
            if not isinstance(result, Failure):
                return result
            failures.append(result)
            seen += result.sent
            if result.trouble is Trouble.BROKEN and single and attempts == 1:
                candidates.append(backend)  # reset before any byte and nowhere else to go: once more on a fresh connection
            if time.monotonic() >= deadline_s:
                break
        raise _refusal(failures, attempts)

    def _task(
        self, screened: ScreenedRequest, deadline_s: float, request_id: str, traceparent: str, caller: CallerHeaders | None
    ) -> _Task:
        valid = screened.valid
        asked = valid.permit.asked
        headers = [_SENDS_JSON, _TAKES_EVENTS if valid.stream else _TAKES_JSON, self._agent]
        if request_id:
            headers.append((b"x-request-id", request_id.encode("ascii")))
        if traceparent:
            headers.append((b"traceparent", traceparent.encode("ascii")))
        route, subject = valid.permit.route, valid.permit.subject
        return _Task(
            route, asked.model, asked.operation, valid.stream, screened.payload, tuple(headers), deadline_s, subject, caller
        )

    async def _attempt(
        self, slot: _Slot, backend: Backend, ticket: Ticket, task: _Task, attempts: int
    ) -> Answer | UpstreamFiltered | Failure:
        """Ask one backend once. INVARIANT: the ticket is reported, or handed to the answer, on every path."""
        path = self._paths[task.route, backend.name, task.operation]
        response: Response | None = None
        outcome: Outcome | None = Outcome.NEUTRAL  # None once the ticket is the answer's
        try:
            if path is None:
                return _skipped(slot, Trouble.NO_PATH, None)
            held = self._credentials(backend)
            if held is None:
                held = await self._identities[backend.name].headers(task.subject, task.caller, time.time())
            headers = (*task.headers, *held)
            response = await slot.client.post(path, headers, _payload(backend, task), deadline_s=task.deadline_s)
            if 200 <= response.status < 300 and _fits(response, task.stream):
                ticket = slot.breaker.good_start(ticket, time.monotonic())
                answer = Answer(
                    backend=backend.name,
                    model=backend.model or task.model,
                    region=backend.region,
                    attempts=attempts,
                    response=response,
                    breaker=slot.breaker,
                    ticket=ticket,
                )
                response, outcome = None, None
                return answer
            failure = _status_failure(slot, response)
            identity = self._identities.get(backend.name) if failure.status in (401, 403) else None
            # SECURITY: one person whom a backend does not take must not close it for everybody.
            outcome = Outcome.NEUTRAL if identity is not None and identity.personal else failure.outcome
            if identity is not None:
                _identity_refused(identity, failure, task)
            if failure.trouble is Trouble.REFUSED:
                return await _refused(backend, task, attempts, response)
            return failure
        except UpstreamError as error:
            failure = failure_of_error(backend.name, error)
            outcome = failure.outcome
            return failure
        finally:
            if outcome is not None:
                slot.breaker.report(ticket, outcome, time.monotonic())
            if response is not None:
                response.close()

    def states(self) -> dict[str, str]:
        """Return each backend's name and breaker state, for readiness, metrics and the console."""
        now_s = time.monotonic()
        return {name: slot.breaker.state(now_s).value for name, slot in self._slots.items()}

    def ready(self) -> bool:
        """Whether at least one backend may be asked."""
        return any(state != State.OPEN.value for state in self.states().values())

    async def warm(self) -> dict[str, bool]:
        """Open one connection to each backend; return which could be reached. Never raises."""
        return {name: await _reachable(slot.client) for name, slot in self._slots.items()}

    async def ready_identities(self) -> dict[str, bool]:
        """Ask for the token of each backend that has an identity of its own; return which were got. Never raises."""
        now_s = time.time()
        got = await asyncio.gather(*(identity.ready(now_s) for identity in self._identities.values()))
        return dict(zip(self._identities, got, strict=True))

    async def aclose(self) -> None:
        for identity in self._identities.values():
            await identity.aclose()
        for slot in self._slots.values():
            await slot.client.aclose()


async def _reachable(client: BackendClient) -> bool:
    try:
        await client.warm()
    except UpstreamError:
        return False
    return True


def _pass_over(slot: _Slot, now_s: float) -> Failure | None:
    if now_s < slot.hold_until_s:
        return _skipped(slot, Trouble.LIMITED, slot.told_until_s - now_s)
    if slot.breaker.state(now_s) is State.OPEN:
        return _skipped(slot, Trouble.OPEN, slot.breaker.retry_after_s(now_s))
    return None


def _skipped(slot: _Slot, trouble: Trouble, retry_after_s: float | None) -> Failure:
    return Failure(backend=slot.backend.name, trouble=trouble, sent=False, outcome=Outcome.NEUTRAL, retry_after_s=retry_after_s)


def _payload(backend: Backend, task: _Task) -> bytes:
    """Return the body with the backend's own model name, every other byte value as it was inspected."""
    if not backend.model or backend.model == task.model or backend.dialect is Dialect.PLAIN:
        return task.payload
    members = msgspec.json.decode(task.payload, type=dict[str, msgspec.Raw])
    members["model"] = msgspec.Raw(msgspec.json.encode(backend.model))
    return msgspec.json.encode(members)


def _fits(response: Response, stream: bool) -> bool:
    wanted = b"text/event-stream" if stream else b"application/json"
    kind = response.header(b"content-type")
    return kind == wanted or kind.split(b";", 1)[0].strip().lower() == wanted


def _identity_refused(identity: BackendCredential, failure: Failure, task: _Task) -> None:
    """Take note of a backend's 401 or 403. Raises `Refusal` where it says that this person may not."""
    if failure.status == 401:
        identity.rejected(task.subject, time.time())
    elif identity.personal:
        detail = f"backend `{failure.backend}` answered 403 to the caller's own token"
        raise Refusal(refusals.POLICY_DENIED, message="the model's backend does not permit this person", detail=detail)


def _status_failure(slot: _Slot, response: Response) -> Failure:
    name = slot.backend.name
    if 200 <= response.status < 300:
        return Failure(
            backend=name, trouble=Trouble.MALFORMED, sent=True, outcome=Outcome.FAULT, status=response.status, detail="content type"
        )
    failure = failure_of_status(name, response.status, response.headers, time.time())
    if failure.trouble is Trouble.LIMITED:
        now_s = time.monotonic()
        wished_s = _HOLD_DEFAULT_S if failure.retry_after_s is None else failure.retry_after_s
        slot.told_until_s = now_s + wished_s
        slot.hold_until_s = now_s + min(wished_s, _HOLD_CAP_S)
    return failure


async def _refused(backend: Backend, task: _Task, attempts: int, response: Response) -> UpstreamFiltered:
    """Tell the two refusals that concern the caller from all others. The body is read bounded and never passed on."""
    try:
        async with asyncio.timeout(min(_ERROR_S, max(0.0, task.deadline_s - time.monotonic()))):
            body = await response.read(_ERROR_BYTES)
    except (TimeoutError, UpstreamError):
        body = b""
    code, error = error_code(body)
    if code == "content_filter":
        return UpstreamFiltered(
            backend=backend.name, model=backend.model or task.model, attempts=attempts, categories=filtered_categories(error)
        )
    detail = f"backend `{backend.name}` answered {response.status}"
    if is_too_long(code):
        raise Refusal(refusals.INVALID_REQUEST, message="the input and the output asked for do not fit the model's context", detail=detail)
    raise Refusal(refusals.INVALID_REQUEST, message="the model's backend does not accept this request", detail=detail)


def _refusal(failures: Sequence[Failure], attempts: int) -> Refusal:
    """Choose what the caller is told: the first failure speaks, for it concerns the backend that was meant to serve."""
    detail = f"{attempts} attempts; " + ", ".join(
        f"{failure.backend}: {failure.trouble.value}{f' ({failure.detail})' if failure.detail else ''}" for failure in failures
    )
    told = next((failure for failure in failures if failure.trouble not in (Trouble.OPEN, Trouble.NO_PATH)), None)
    if told is None:
        waits = [failure.retry_after_s for failure in failures if failure.retry_after_s is not None]
        wait_s = max(min(waits), 0.001) if waits else None
        return Refusal(refusals.BACKEND_UNAVAILABLE, retry_after_s=wait_s, detail=detail if failures else "no backend in an allowed region")
    if told.trouble is Trouble.LIMITED:
        limited = [failure.retry_after_s or _HOLD_DEFAULT_S for failure in failures if failure.trouble is Trouble.LIMITED]
        return Refusal(refusals.RATE_LIMITED, message="the model's backends are rate limited", retry_after_s=min(limited), detail=detail)
    if told.trouble is Trouble.FULL:
        return Refusal(refusals.OVERLOADED, retry_after_s=1.0, detail=detail)
    if told.trouble is Trouble.TIMEOUT:
        return Refusal(refusals.BACKEND_TIMEOUT, detail=detail)
    return Refusal(refusals.BACKEND_UNAVAILABLE, detail=detail)
