"""Bearer tokens of services judged: a verdict on each attempt, and what was proven remembered.

One gate stands at each hub, and one at the provisioning service; management calls may be judged by any of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import NamedTuple

from muster.access.bearer import (
    SKEW_SECONDS,
    BearerError,
    Unproven,
    check_audience,
    check_beginning,
    check_expiry,
    read,
)
from muster.access.decision import Caller, Decide, Decision
from muster.access.issuers import Issuers, Proof
from muster.access.roles import Action, DataAction, ManagementAction, ProvisioningAction, StreamAction, roles_for
from muster.core.access_errors import FORBIDDEN
from muster.core.access_limits import BEARERS_REMEMBERED
from muster.core.ambient import Ambient, iso, tracking_id
from muster.core.errors import UNAUTHORIZED, UNAVAILABLE
from muster.core.values import value
from muster.identity.examination import Examination
from muster.identity.mistakes import shown
from muster.identity.refusals import Refusals
from muster.identity.verdict import Admission, Check, Outcome, Verdict

SCHEME = "bearer "
_HUBS, _EVENTS = "https://iothubs.azure.net", "https://eventhubs.azure.net"
AUDIENCES: Mapping[type[Action], frozenset[str]] = {
    DataAction: frozenset({_HUBS}),
    StreamAction: frozenset({_HUBS, _EVENTS}),
    ProvisioningAction: frozenset({"https://azure-devices-provisioning.net"}),
    ManagementAction: frozenset({"https://management.azure.com"}),
}
"""What tokens are made for, by the kind of action, no slash at the end (service.md 1.4): Azure's own names, which its
SDKs ask for. The built-in endpoint is the hub's, so its tokens do there too."""
_STEPS = ("issuer", "signature", "audience", "expiry", "not-before", "role", "scope")
_ISSUER_KNOWN = ("issuer", "an issuer that the hub trusts", "known")
_OUT_OF_REACH = {"issuer-unreachable", "issuer-keys-too-old"}


def is_bearer(text: str) -> bool:
    """Whether ``text``, where a credential belongs, is a bearer token with its scheme before it."""
    return text[: len(SCHEME)].lower() == SCHEME


def bearer_of(text: str) -> str:
    """``text`` as a bearer token with its scheme; empty when it is none. Event Hubs clients leave the scheme out."""
    if is_bearer(text):
        return text
    return f"Bearer {text}" if text.startswith("eyJ") else ""


@value(frozen=True, slots=True, kw_only=True)
class BearerAttempt:
    """A service asks to do what needs all of ``actions``.

    ``token`` is the credential as it came, ``Bearer`` and a blank before it. ``device_id`` is the device it is about,
    ``None`` for no single one; ``hub`` the hub, ``None`` for that of the gate.
    """

    transport: str
    peer: str
    token: str = field(repr=False)
    actions: tuple[Action, ...]
    device_id: str | None = None
    hub: str | None = None


class _Known(NamedTuple):
    proof: Proof
    allowed: set[tuple[str, Action]]
    """What the caller may do on the whole of a hub."""


class BearerGate:
    """Judges; what it refuses is kept in ``refusals``."""

    def __init__(self, issuers: Issuers, decide: Decide, ambient: Ambient, refusals: Refusals, hub: str) -> None:
        """``hub`` is the name that ``decide`` gets where an attempt names none."""
        self._issuers = issuers
        self._decide = decide
        self._ambient = ambient
        self._refusals = refusals
        self._hub = hub
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._changes = 0
        self._listeners: list[Callable[[], None]] = []

    def proven(self, token: str, actions: tuple[Action, ...], hub: str | None = None) -> str | None:
        """Who calls with ``token``, when it was allowed all of ``actions`` on the whole hub before and would be again;
        else ``None``: ``judge`` it. A hundredth of the work."""
        known = self._known.get(token)
        if known is None or not actions:
            return None
        proof, name = known.proof, self._hub if hub is None else hub
        if not all((name, action) in known.allowed for action in actions):
            return None
        if self._ambient.now() >= proof.token.expires + SKEW_SECONDS or not proof.stands():
            return None
        self._known.move_to_end(token)
        return proof.caller.principal

    def when_roles_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` from now on when callers may do more or less than before."""
        self._listeners.append(listener)

    def roles_changed(self) -> None:
        """Ask anew what callers may do: what roles are granted is not what it was."""
        self._changes += 1
        for known in self._known.values():
            known.allowed.clear()
        for listener in self._listeners:
            listener()

    async def judge(self, attempt: BearerAttempt) -> Verdict:
        """Judge an attempt; a refusal is 401002 for a token that does not count, 403000 for a caller without the role,
        503001 where the issuer is needed and out of reach.

        The checks, in order: token, issuer, signature, audience, expiry, not-before, role, scope. Raises ``HubError``
        500001 when a store fails.
        """
        exam = Examination()
        proof = await self._prove(exam, attempt.token)
        if proof is not None:
            self._check_claims(exam, proof.token, attempt.actions)
            if exam.error is None:
                await self._check_role(exam, attempt, proof)
        return self._verdict(exam, attempt, proof)

    async def admit(self, attempt: BearerAttempt, each: frozenset[Action] = frozenset()) -> Verdict:
        """As ``judge``, for a token that is shown before it is known what for: it counts whatever its caller may do of
        ``attempt.actions``, and the verdict's ``admission`` says what that is. ``each`` are those of them that will be
        asked about for each device."""
        exam, admission = Examination(), None
        proof = await self._prove(exam, attempt.token)
        if proof is not None:
            self._check_claims(exam, proof.token, attempt.actions)
            if exam.error is None:
                fitting = (one for one in attempt.actions if proof.token.audiences & self._audiences((one,)))
                admission = await self._admission(proof.caller, tuple(fitting), each)
                exam.skipped("role", "each link asks for its own")
                exam.skipped("scope", "each link asks for its own")
        return self._verdict(exam, attempt, proof, admission)

    async def again(self, admitted: Verdict, each: frozenset[Action] = frozenset()) -> Verdict:
        """``admitted`` as it would be now that roles have changed."""
        if admitted.caller is None or admitted.admission is None:
            return admitted
        admission = await self._admission(admitted.caller, admitted.admission.asked, each)
        return replace(admitted, admission=admission)

    async def _admission(self, caller: Caller, asked: tuple[Action, ...], each: frozenset[Action]) -> Admission:
        decisions = {action: await self._decide(caller, action, self._hub, None) for action in asked}
        return Admission(
            asked,
            frozenset(action for action, decision in decisions.items() if decision.allowed),
            frozenset(one for one, decision in decisions.items() if decision.elsewhere and one in each),
        )

    async def refuse(self, admitted: Verdict, action: Action, device_id: str | None = None) -> Verdict | None:
        """``None`` when the caller of ``admitted`` may do ``action`` to the device; else the refusal, which is kept."""
        assert admitted.caller is not None, "a bearer token was admitted"
        decision = await self._decide(admitted.caller, action, self._hub, device_id)
        if decision.allowed:
            return None
        return self.refused(admitted, action, decision)

    def refused(self, admitted: Verdict, action: Action, decision: Decision | None = None) -> Verdict:
        """Keep that the caller of ``admitted`` may not do ``action``, because of ``decision``; the verdict on that."""
        exam, caller = Examination(), admitted.caller
        exam.checks += [check for check in admitted.checks if check.outcome is Outcome.PASSED]
        decision = decision or Decision(allowed=False, roles=roles_for(action))
        _refuse(exam, decision, frozenset() if caller is None else caller.roles)
        verdict = replace(
            admitted, tracking_id=tracking_id(self._ambient), at=self._ambient.now(), checks=tuple(exam.checks),
            cause=exam.cause, error=exam.error, admission=None,
        )  # fmt: skip
        self._refusals.add(verdict)
        return verdict

    async def _prove(self, exam: Examination, text: str) -> Proof | None:
        known = self._known.get(text)
        try:
            if known is not None and known.proof.stands():
                proof = known.proof
            else:
                self._known.pop(text, None)
                token = read(text[len(SCHEME) :].strip())
                exam.passed("token", "a JWT", "well formed")
                proof = await self._issuers.find(token).prove(token)
                self._remember(text, proof)
        except BearerError as error:
            if error.step == "signature":
                exam.passed(*_ISSUER_KNOWN)
            self._failed(exam, error, self._expected(error.step))
            return None
        if not exam.checks:
            exam.passed("token", "a JWT", "well formed")
        exam.passed(*_ISSUER_KNOWN)
        exam.passed("signature", "by a key of the issuer", "by one of them")
        return proof

    def _remember(self, text: str, proof: Proof) -> None:
        self._known[text] = _Known(proof, set())
        if len(self._known) > BEARERS_REMEMBERED.open:
            self._known.popitem(last=False)

    def _expected(self, step: str) -> str:
        if step == "issuer":
            return " or ".join(self._issuers.names)
        return "a JWT (RFC 7519)" if step == "token" else "by a key that the issuer publishes"

    def _check_claims(self, exam: Examination, token: Unproven, actions: tuple[Action, ...]) -> None:
        now = self._ambient.now()
        audiences = self._audiences(actions)
        earliest, latest = iso(now - SKEW_SECONDS), iso(now + SKEW_SECONDS)
        checks: tuple[tuple[str, str, Callable[[], None]], ...] = (
            ("audience", " or ".join(sorted(audiences)), lambda: check_audience(token, audiences)),
            ("expiry", f"exp after {earliest} (now, less {SKEW_SECONDS} s)", lambda: check_expiry(token, now)),
            ("not-before", f"nbf before {latest} (now and {SKEW_SECONDS} s)", lambda: check_beginning(token, now)),
        )
        for step, expected, check in checks:
            try:
                check()
            except BearerError as error:
                self._failed(exam, error, expected)
            else:
                exam.passed(step)

    def _audiences(self, actions: tuple[Action, ...]) -> frozenset[str]:
        kinds = {type(action) for action in actions} or set(AUDIENCES)
        return self._issuers.audiences.union(*(AUDIENCES[kind] for kind in kinds))

    async def _ask(self, attempt: BearerAttempt, proof: Proof, action: Action) -> Decision:
        """The decision on one action, remembered if it holds for the whole hub."""
        hub, changes = self._hub if attempt.hub is None else attempt.hub, self._changes
        decision = await self._decide(proof.caller, action, hub, attempt.device_id)
        known = self._known.get(attempt.token)
        if decision.allowed and decision.everywhere and known is not None and changes == self._changes:
            known.allowed.add((hub, action))
        return decision

    async def _check_role(self, exam: Examination, attempt: BearerAttempt, proof: Proof) -> None:
        grounds = []
        if not attempt.actions:
            exam.failed(
                "role", "bearer-not-here", FORBIDDEN, expected="a shared access policy's token", seen="a bearer token"
            )
            return
        for action in attempt.actions:
            decision = await self._ask(attempt, proof, action)
            if not decision.allowed:
                _refuse(exam, decision, proof.caller.roles)
                return
            grounds.append(decision.ground)
        seen = ", ".join(dict.fromkeys(grounds))
        exam.checks.append(Check("role", Outcome.PASSED, "a role that allows it", shown(seen)))
        exam.passed("scope", "at this hub, for this device", "covered")

    def _failed(self, exam: Examination, error: BearerError, expected: str) -> None:
        row = UNAVAILABLE if error.cause in _OUT_OF_REACH else UNAUTHORIZED
        exam.failed(error.step, error.cause, row, expected=expected, seen=shown(error.seen or "another"))

    def _verdict(
        self,
        exam: Examination,
        attempt: BearerAttempt,
        proof: Proof | None,
        admission: Admission | None = None,
    ) -> Verdict:
        made = {check.name for check in exam.checks}
        for step in _STEPS:
            if step not in made:
                exam.skipped(step, "the token does not count")
        principal = "" if proof is None else shown(proof.caller.principal)
        verdict = Verdict(
            tracking_id=tracking_id(self._ambient), at=self._ambient.now(), transport=attempt.transport,
            peer=attempt.peer, principal=principal, checks=tuple(exam.checks),
            cause=exam.cause, error=exam.error, caller=None if proof is None else proof.caller,
            expires_at=None if proof is None else proof.token.expires + SKEW_SECONDS, admission=admission,
        )  # fmt: skip
        if exam.error is not None:
            self._refusals.add(verdict)
        return verdict


def _refuse(exam: Examination, decision: Decision, held: frozenset[str]) -> None:
    wanted = " or ".join(decision.roles) or "no role does"
    if decision.elsewhere:
        exam.passed("role", "a role that allows it", "there is one")
        exam.failed(
            "scope",
            "role-elsewhere",
            FORBIDDEN,
            expected="at this hub, for this device",
            seen=shown(decision.elsewhere),
        )
        return
    seen = shown(", ".join(sorted(held))) if held else "no role"
    exam.failed("role", "role-missing", FORBIDDEN, expected=wanted, seen=seen)
    exam.skipped("scope", "there is no role")
