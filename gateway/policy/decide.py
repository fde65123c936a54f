"""May they: a subject, an action, a model and the circumstances in; a decision with its policies and obligations out.

Sans-I/O: the clock is an argument. Deny by default, any forbid wins, an error denies (NIST SP 800-162; Cedar's semantics). What a
caller learns is a constant message and the ids of policies that say `@tell("true")`; the reason goes to the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.challenge import insufficient_claims
from gateway.evidence import Asked, Obligations, Permit, Subject
from gateway.policy.cedar_text import Policy
from gateway.policy.content_profiles import ContentProfile, ContentRules
from gateway.policy.engine import Engine, Question, Ruling
from gateway.policy.facts import Context, RouteFacts, Zones, context_at
from gateway.policy.limit_tiers import LimitTier, LimitTiers
from gateway.policy.obligations import Standards, merge
from gateway.policy.recent import Recent
from gateway.policy.roles import RoleMap
from gateway.refusals import DEPLOYMENT_NOT_FOUND, INVALID_REQUEST, POLICY_DENIED, Kind, Refusal

SEE = "model:see"
USE = ("chat", "complete", "embed", "infer", "score")  # members of the action group `use` that name a model

# Operation -> action. Operations on the gateway itself stand in `SERVICE_ACTIONS`.
ACTIONS: Mapping[str, str] = {
    "chat.completions": "chat",
    "responses": "chat",
    "completions": "complete",
    "embeddings": "embed",
    "infer": "infer",
    "score": "score",
    "models.get": SEE,
    "moderations": "moderate",
    "models.list": "models:list",
    "feedback": "feedback:send",
}
SERVICE_ACTIONS = frozenset({"moderate", "models:list", "feedback:send", "audit:read", "policy:explain", "content:reveal", "status:read"})

CACHE_ENTRIES = 8192  # decisions kept; one is about 1 KiB


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one question. `detail` says why not, in constants and policy ids; `told` are the ids a caller may see.

    `step_up` is the authentication context without which alone it is no; empty where signing in again would not help.
    """

    allowed: bool
    roles: frozenset[str]
    policy_ids: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    obligations: Obligations | None = None
    detail: str = ""
    step_up: str = ""


class _Outcome(msgspec.Struct, frozen=True):
    """What `permit` found: a yes with its obligations, or which refusal to raise."""

    route: str
    decision: Decision
    refusal: Kind | None = None
    param: str | None = None
    message: str | None = None
    inner: Mapping[str, Any] | None = None


def _refusal(subject: Subject, outcome: _Outcome) -> Refusal:
    decision = outcome.decision
    if outcome.refusal is POLICY_DENIED and decision.step_up:
        refusal = insufficient_claims(subject, decision.step_up, inner=outcome.inner)
    else:
        kind = outcome.refusal or POLICY_DENIED
        refusal = Refusal(kind, message=outcome.message, param=outcome.param, inner=outcome.inner, detail=decision.detail)
    refusal.policy_ids = decision.policy_ids
    return refusal


class PolicySet:
    """One generation of policies, complete and checked. Made by `load`; `engine` None is the set that denies everything.

    INVARIANT: nothing in it changes after construction but the caches, whose keys hold everything a decision depends on.
    """

    def __init__(
        self,
        *,
        digest: str,
        policies: Sequence[Policy],
        roles: RoleMap,
        content: ContentRules,
        limits: LimitTiers,
        schemas: Mapping[str, Mapping[str, Any]],
        routes: Mapping[str, RouteFacts],
        zones: Zones,
        standards: Standards,
        engine: Engine | None,
    ) -> None:
        self.digest = digest
        self.policies: Mapping[str, Policy] = {policy.id: policy for policy in policies}
        self.roles = roles
        self.content = content
        self.limits = limits
        self.schemas = schemas
        self.routes = routes
        self.zones = zones
        self._standards = standards
        self._engine = engine
        self._decisions: Recent[tuple[Subject, str, str, Context], Decision] = Recent(CACHE_ENTRIES)
        self._outcomes: Recent[tuple[Subject, str, str, str, bool, int], _Outcome] = Recent(CACHE_ENTRIES)
        self._lists: Recent[tuple[Subject, str, int, bool], tuple[str, ...]] = Recent(CACHE_ENTRIES)

    def profile(self, name: str) -> ContentProfile:
        """Return a content profile of this generation."""
        return self.content.profiles[name]

    def tier(self, name: str) -> LimitTier:
        """Return a limit tier of this generation."""
        return self.limits.tiers[name]

    def standing_tier(self, subject: Subject, *, peer: str, now_s: float) -> LimitTier | None:
        """Return the tier of a subject where no request was permitted: that of listing models, else the default."""
        context = self.context(subject, "", peer=peer, stream=False, now_s=now_s)
        obligations = self.decide(subject, "models:list", "", context).obligations
        return self.limits.tiers.get(obligations.tier if obligations is not None else self.limits.default)

    def context(self, subject: Subject, model: str, *, peer: str, stream: bool, now_s: float) -> Context:
        """Return the circumstances of a request; `now_s` is seconds since the epoch."""
        signed_in = self.zones.of_sign_in(subject.sign_in_address)
        return context_at(subject, self.routes.get(model), self.zones.of(peer), stream, int(now_s) // 60, sign_in_zone=signed_in)

    def decide(self, subject: Subject, action: str, model: str, context: Context) -> Decision:
        """Answer one question. `model` is "" for actions on the gateway itself. Never raises."""
        key = (subject, action, model, context)
        known = self._decisions.get(key)
        if known is None:
            known = self.judge(subject, self.roles.of(subject), [(action, model, context)])[0]
            if not model or model in self.routes:  # names that do not exist are the caller's to invent: not worth a place
                self._decisions.put(key, known)
        return known

    def judge(self, subject: Subject, roles: frozenset[str], questions: Sequence[tuple[str, str, Context]]) -> list[Decision]:
        """Answer questions as if the subject had exactly `roles`. Not cached: for tests, explanations and comparisons."""
        denied = Decision(allowed=False, roles=roles, detail="there are no policies")
        if self._engine is None:
            return [denied] * len(questions)
        asked = [Question(action, model, context.as_cedar()) for action, model, context in questions]
        rulings = self._engine.ask(subject, roles, self.roles.clearance(roles), asked)
        answers = []
        for (action, model, context), ruling in zip(questions, rulings, strict=True):
            # INVARIANT: what belongs to a model is never answered for the gateway, nor the other way round
            misplaced = (action in SERVICE_ACTIONS) == bool(model) or bool(model and model not in self.routes)
            answers.append(self._decision(roles, Ruling(False, (), True) if misplaced else ruling, context))
        return answers

    def _decision(self, roles: frozenset[str], ruling: Ruling, context: Context) -> Decision:
        ids = ruling.ids
        told = tuple(name for name in ids if self.policies[name].tell)
        if ruling.failed:
            return Decision(allowed=False, roles=roles, detail="the policy engine gave no clean answer")
        if not ruling.allowed:
            detail = f"forbidden by {', '.join(ids)}" if ids else "no policy permits it"
            asked = [self.policies[name].requires for name in ids]
            # Only where every forbid that applies asks for one: one that does not would still stand after signing in again.
            step_up = min(asked) if all(asked) and set(asked).isdisjoint(context.auth_context) and ids else ""
            return Decision(allowed=False, roles=roles, policy_ids=ids, told=told, detail=detail, step_up=step_up)
        lacking = {r for name in ids if (r := self.policies[name].requires)} - context.auth_context
        if lacking:
            detail = f"needs the authentication context {min(lacking)}"
            return Decision(allowed=False, roles=roles, policy_ids=ids, told=told, detail=detail, step_up=min(lacking))
        obligations = merge((self.policies[name].stated for name in ids), self._standards)
        if obligations is None:
            return Decision(allowed=False, roles=roles, policy_ids=ids, told=told, detail="the permitted regions exclude one another")
        return Decision(allowed=True, roles=roles, policy_ids=ids, told=told, obligations=obligations)

    def permit(self, subject: Subject, asked: Asked, now_s: float) -> Permit:
        """Return the proof that the request may go on.

        Raises `Refusal(DEPLOYMENT_NOT_FOUND)` for a model that does not exist or may not be seen, `Refusal(POLICY_DENIED)` for
        everything else that no policy permits, `Refusal(INVALID_REQUEST)` for an operation the model does not offer,
        `Refusal(INVALID_TOKEN)` with a claims challenge where only signing in more strongly is missing and the client can do it.
        """
        # SECURITY: a name that is no model's is the caller's to invent, of any length: what is asked of the gateway itself may bear one.
        model = asked.model if asked.model in self.routes else ""
        key = (subject, asked.operation, model, asked.peer, asked.stream, int(now_s) // 60)
        outcome = self._outcomes.get(key)
        if outcome is None:
            outcome = self._outcome(subject, asked, now_s)
            if outcome.route:
                self._outcomes.put(key, outcome)
        decision = outcome.decision
        if outcome.refusal is not None or decision.obligations is None:
            raise _refusal(subject, outcome)
        return Permit(
            subject=subject,
            asked=asked,
            route=outcome.route,
            roles=decision.roles,
            policy_ids=decision.policy_ids,
            policy_digest=self.digest,
            obligations=decision.obligations,
            generation=self,
        )

    def _outcome(self, subject: Subject, asked: Asked, now_s: float) -> _Outcome:
        action = ACTIONS.get(asked.operation)
        service = action in SERVICE_ACTIONS
        model = "" if service else asked.model
        if not service and model not in self.routes:
            unknown = Decision(allowed=False, roles=frozenset(), detail="there is no such model")
            return _Outcome("", unknown, DEPLOYMENT_NOT_FOUND)
        if action is None:
            return _Outcome("", Decision(allowed=False, roles=frozenset(), detail="no action belongs to the operation"), POLICY_DENIED)
        context = self.context(subject, model, peer=asked.peer, stream=asked.stream, now_s=now_s)
        questions = [(action, model, context)] if service or action == SEE else [(SEE, model, context), (action, model, context)]
        decisions = self.judge(subject, self.roles.of(subject), questions)
        route = str(asked.operation) if service else model
        if not service and not decisions[0].allowed:
            hidden = msgspec.structs.replace(decisions[0], detail=f"may not be seen: {decisions[0].detail}")
            return _Outcome(route, hidden, DEPLOYMENT_NOT_FOUND)
        decision = decisions[-1]
        if not decision.allowed:
            return _Outcome(route, decision, POLICY_DENIED, inner={"code": "PolicyDenied", "reasons": list(decision.told)})
        offered = self.routes[model].operations if not service else frozenset()
        if action != SEE and offered and asked.operation not in offered:
            wrong = msgspec.structs.replace(decision, detail="the model does not offer the operation")
            return _Outcome(route, wrong, INVALID_REQUEST, "model", "the model does not offer this operation")
        return _Outcome(route, decision)

    def visible_models(self, subject: Subject, now_s: float, *, peer: str = "") -> tuple[str, ...]:
        """Return the models the subject may know of, in the order of settings."""
        return self._listed(subject, peer, now_s, usable=False)

    def usable_models(self, subject: Subject, now_s: float, *, peer: str = "") -> tuple[str, ...]:
        """Return the models the subject may see and use by at least one operation the model offers."""
        return self._listed(subject, peer, now_s, usable=True)

    def _listed(self, subject: Subject, peer: str, now_s: float, *, usable: bool) -> tuple[str, ...]:
        key = (subject, peer, int(now_s) // 60, usable)
        known = self._lists.get(key)
        if known is not None:
            return known
        wanted: list[tuple[str, str, Context]] = []
        for name, route in self.routes.items():
            context = self.context(subject, name, peer=peer, stream=False, now_s=now_s)
            offered = {ACTIONS.get(operation) for operation in route.operations} or set(USE)
            wanted.append((SEE, name, context))
            wanted.extend((action, name, context) for action in USE if usable and action in offered)
        decisions = self.judge(subject, self.roles.of(subject), wanted)
        yes = {(action, name) for (action, name, _), decision in zip(wanted, decisions, strict=True) if decision.allowed}
        seen = [name for name in self.routes if (SEE, name) in yes]
        listed = tuple(name for name in seen if not usable or any((action, name) in yes for action in USE))
        self._lists.put(key, listed)
        return listed
