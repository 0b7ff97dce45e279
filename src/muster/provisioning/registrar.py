"""Registration: a device proves who it is, is assigned to a hub, and asks what became of that.

The state machine of one registration: ``assigning`` from the first write on, then ``assigned`` or ``failed``; a device
that comes again begins anew, or finds the operation that is in progress. ``disabled`` is answered and not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from muster.core.ambient import Ambient, Timer
from muster.core.audit import BY_THE_HUB, Act
from muster.core.errors import (
    ARGUMENT_INVALID,
    ARGUMENT_NULL,
    PRECONDITION_FAILED,
    SERVER_ERROR,
    THROTTLED,
    UNAVAILABLE,
    HubError,
)
from muster.core.limits import Profile
from muster.core.meters import Meters
from muster.core.provisioning_errors import (
    ENROLLMENT_DISABLED,
    ENROLLMENT_NOT_FOUND,
    OPERATION_NOT_FOUND,
    REGISTRATION_IN_PROGRESS,
    REGISTRATION_NOT_FOUND,
)
from muster.core.provisioning_limits import ASSIGNMENT_RETRY, REGISTRATION_RETRY, REGISTRATIONS_AT_ONCE
from muster.core.throttles import REGISTRATIONS
from muster.identity.changes import ANY, Match
from muster.issuing.policies import issue
from muster.provisioning import plan
from muster.provisioning.account import registration_noted
from muster.provisioning.allocation import candidates, custom
from muster.provisioning.assignment import Postponed, carry_out
from muster.provisioning.attempt import Attempt, Attested, ChallengedError
from muster.provisioning.certificate_requests import Grant, granted
from muster.provisioning.contract import ProvisioningStore, Webhook
from muster.provisioning.examiner import Examiner, Finding
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.ids import normal
from muster.provisioning.model import (
    AllocationKind,
    Content,
    Enrollment,
    EnrollmentKey,
    EnrollmentKind,
    Intent,
    Registration,
    RegistrationStatus,
)
from muster.provisioning.polls import Polls
from muster.provisioning.timeline import Timeline

log = logging.getLogger("muster.provisioning")


class Operation(NamedTuple):
    """What a device is told: its registration as it stands, ``None`` where its enrollment is disabled, and in how many
    seconds it shall ask again (0: it need not)."""

    registration: Registration | None
    retry_after: int = 0


@dataclass(slots=True)
class _Running:
    """An assignment in progress. ``begun`` is done once the registration is on disk."""

    begun: asyncio.Future[Registration]
    task: asyncio.Task[None] | None = None
    timer: Timer | None = None


WebhookBody = Callable[[Enrollment, Content, Sequence[str]], Content]
"""How the wire spells the question: the enrollment, the device's context, host names that may be answered."""


class Registrar:
    """Registers devices at the provisioning service ``scope``."""

    def __init__(
        self,
        scope: str,
        store: ProvisioningStore,
        examiner: Examiner,
        timeline: Timeline,
        *,
        hubs: LinkedHubs,
        webhook: Webhook,
        webhook_body: WebhookBody,
        ambient: Ambient,
        profile: Profile,
        meters: Meters | None = None,
    ) -> None:
        self._scope = scope
        self._store = store
        self._examiner = examiner
        self._timeline = timeline
        self._hubs = hubs
        self._webhook = webhook
        self._webhook_body = webhook_body
        self._ambient = ambient
        self._meters = Meters(ambient) if meters is None else meters
        self._polls = Polls(ambient, enforced=self._meters.plan is not None)
        self._retry = REGISTRATION_RETRY.under(profile)
        self._most = REGISTRATIONS_AT_ONCE.under(profile)
        self._running: dict[str, _Running] = {}

    # --- for devices

    async def register(self, attempt: Attempt) -> Operation:
        """Begin to assign the device, or find the assignment that is in progress; its answer is on disk.

        Raises ``HubError``: 401002 for a device that does not prove who it is, under the verdict's tracking id, as
        ``ChallengedError`` if its TPM is to do that first; 400005 for a TPM whose keys are missing; 429001 for too many
        at once or above the rate (``Meters.take``), 500001 when the store fails.
        """
        finding = await self._examine(attempt, log_it=True)
        if finding is None:
            return Operation(None)
        if finding.attested is None:
            raise HubError(ARGUMENT_NULL, "tpm.endorsementKey is missing, send the TPM's keys with the token too.")
        name = normal(attempt.registration_id)
        self._meters.take(REGISTRATIONS, name)
        while (running := self._running.get(name)) is not None:
            if not running.begun.done():
                return Operation(await asyncio.shield(running.begun), self._retry)
            found = await self._store.registration(self._scope, name)
            if found is not None and found.intent is not None:
                return Operation(running.begun.result(), self._retry)
            if running.task is not None:  # its end is on disk, and on its way here
                await asyncio.wait([running.task])
            elif self._running.get(name) is running:  # another node has ended what was to be tried again here
                self._forget(name)
        if len(self._running) >= self._most:
            raise HubError(THROTTLED, "Too many devices are registering, come back later.")
        return Operation(await asyncio.shield(self._begin(name, attempt, finding).begun), self._retry)

    async def status(self, attempt: Attempt, operation_id: str) -> Operation:
        """What became of an operation of the device. Raises ``HubError`` as ``register``, 404203, and 429001 for a
        device that asks too often."""
        finding = await self._examine(attempt)
        if finding is None:
            return Operation(None)
        self._polls.take(attempt.registration_id)
        found = await self._store.registration(self._scope, normal(attempt.registration_id))
        if found is None or found.operation_id != operation_id:
            raise HubError(OPERATION_NOT_FOUND, "The device has no such operation, or a newer one; register again.")
        return Operation(found, self._retry if found.status is RegistrationStatus.ASSIGNING else 0)

    async def lookup(self, attempt: Attempt) -> Operation:
        """The device's registration. Raises ``HubError`` as ``status``, and 404202."""
        finding = await self._examine(attempt)
        if finding is None:
            return Operation(None)
        self._polls.take(attempt.registration_id)
        return Operation(await self.get(normal(attempt.registration_id)))

    async def admit(self, attempt: Attempt) -> None:
        """Judge an attempt before it says what it wants, as AMQP has it. Raises ``HubError`` 401002 as ``register``."""
        finding = await self._examiner.examine(attempt)
        if not finding.verdict.allowed:
            self._timeline.attempted(attempt, finding.verdict, finding.enrollment)
        _require(finding)

    async def enroll(self, attempt: Attempt, policy: str = "") -> tuple[bytes, ...]:
        """A certificate without a registration, and the chain behind it, in DER.

        ``policy`` must be the enrollment's, unless it is empty. Raises ``HubError`` as ``register``, 400004 for a
        request that cannot be granted, 403201 for a disabled enrollment.
        """
        finding = await self._examine(attempt, log_it=True)
        if finding is None:
            raise HubError(ENROLLMENT_DISABLED)
        self._meters.take(REGISTRATIONS, normal(attempt.registration_id))
        if not isinstance(finding.grant, Grant):
            raise HubError(ARGUMENT_NULL, "The body is empty, send a PKCS#10 request.")
        assert finding.enrollment is not None
        if policy and policy != finding.enrollment.credential_policy:
            raise HubError(ARGUMENT_INVALID, "The label is not the credential policy of the enrollment.")
        return issue(finding.grant.policy, finding.grant.request, self._ambient)

    async def _examine(self, attempt: Attempt, *, log_it: bool = False) -> Finding | None:
        """The finding that lets the device in; ``None`` where its enrollment is disabled."""
        finding = await self._examiner.examine(attempt)
        if log_it:
            self._timeline.attempted(attempt, finding.verdict, finding.enrollment)
        return _require(finding)

    # --- for services

    async def get(self, registration_id: str) -> Registration:
        """A registration. Raises ``HubError`` 404202."""
        found = await self._store.registration(self._scope, registration_id)
        if found is None:
            raise _not_found(registration_id)
        return found

    async def page(self, group_id: str, after: str, limit: int) -> Sequence[Registration]:
        """Up to ``limit`` registrations by a group, whose ids come after ``after``."""
        key = EnrollmentKey(EnrollmentKind.GROUP, group_id)
        return await self._store.registrations(self._scope, key, after, limit)

    async def delete(self, registration_id: str, match: Match = ANY, by: Act = BY_THE_HUB) -> None:
        """Forget a registration; the device stays at its hub. Raises ``HubError`` 404202, 412001, 409202."""

        def change(present: Registration | None) -> None:
            if present is None:
                raise _not_found(registration_id)
            if match.version is not None and match.version != present.version:
                raise HubError(PRECONDITION_FAILED)
            if present.intent is not None:
                raise HubError(REGISTRATION_IN_PROGRESS, f"{registration_id} is being assigned, try again in a moment.")

        note = registration_noted(self._scope, by, registration_id, self._ambient.now())
        await self._store.edit_registration(self._scope, registration_id, change, note)

    # --- the assignment

    async def resume(self) -> None:
        """Finish what was in progress when the service ended; to be called once, before anything else."""
        for registration in await self._store.unfinished(self._scope):
            self._run(registration.registration_id, registration)

    async def close(self) -> None:
        """Stop. What is in progress stays on disk and is finished after the next start."""
        running = list(self._running.values())
        for one in running:
            if one.timer is not None:
                one.timer.cancel()
            if one.task is not None:
                one.task.cancel()
        await asyncio.gather(*(one.task for one in running if one.task is not None), return_exceptions=True)

    def _begin(self, name: str, attempt: Attempt, finding: Finding) -> _Running:
        running = self._running[name] = _Running(asyncio.get_running_loop().create_future())
        running.begun.add_done_callback(_retrieved)
        running.task = asyncio.get_running_loop().create_task(self._assign(name, running, attempt, finding))
        return running

    def _run(self, name: str, registration: Registration) -> None:
        """Go on with an assignment that is on disk."""
        running = self._running.setdefault(name, _Running(asyncio.get_running_loop().create_future()))
        if not running.begun.done():
            running.begun.set_result(registration)
        running.task = asyncio.get_running_loop().create_task(self._go_on(name, running, registration))

    async def _assign(self, name: str, running: _Running, attempt: Attempt, finding: Finding) -> None:
        enrollment, attested = finding.enrollment, finding.attested
        assert enrollment is not None
        assert attested is not None
        try:
            begun = await self._begun(name, attempt, finding, enrollment, attested)
        except BaseException as error:
            del self._running[name]
            running.begun.set_exception(
                error if isinstance(error, Exception) else HubError(UNAVAILABLE, "The service is stopping.")
            )
            return
        running.begun.set_result(begun)
        await self._go_on(name, running, begun)

    async def _begun(
        self, name: str, attempt: Attempt, finding: Finding, enrollment: Enrollment, attested: Attested
    ) -> Registration:
        """The beginning, on disk; that of another node if there is one, which may be gone by now."""
        present = await self._store.registration(self._scope, name)
        if present is not None and present.intent is not None:
            return present
        if isinstance(finding.grant, Grant):
            attested = granted(finding.grant, attested, self._ambient)
        first = self._first(name, attempt, attested, enrollment, present)
        if not self._asks(enrollment, first):
            with suppress(HubError):  # what cannot be chosen is found out again, once the beginning is on disk
                first = await self._decided(first, enrollment)
        try:
            return await self._record(first, present)
        except _OvertakenError as overtaken:
            return overtaken.found

    def _first(
        self, name: str, attempt: Attempt, attested: Attested, enrollment: Enrollment, present: Registration | None
    ) -> Registration:
        """The registration as the assignment begins."""
        now = self._ambient.now()
        fresh = 1 + (int.from_bytes(self._ambient.random_bytes(4)) >> 2)
        mark = hashlib.blake2b(f"{self._scope}\n{name}".encode(), digest_size=8).hexdigest()
        return Registration(
            registration_id=name,
            key=enrollment.key,
            operation_id=f"5.{mark}.{self._ambient.uuid()}",
            status=RegistrationStatus.ASSIGNING,
            assigned_hub="" if present is None else present.assigned_hub,
            device_id="" if present is None else present.device_id,
            attested=attested.told,
            payload=None if present is None else present.payload,
            intent=plan.first_intent(attempt, attested, enrollment, present),
            version=fresh if present is None else present.version + 1,
            created=now if present is None else present.created,
            updated=now,
        )

    async def _go_on(self, name: str, running: _Running, registration: Registration) -> None:
        """From a beginning that is on disk to the end, or to a pause after which it is tried again."""
        try:
            if registration.intent is not None:  # else it has ended on another node
                try:
                    registration = await self._chosen(registration)
                    ended = await self._carried_out(registration)
                except HubError as error:
                    ended = _failed(registration, error)
                await self._settle(ended, registration)
        except _OvertakenError as overtaken:
            if overtaken.found.intent is None:
                self._forget(name)
            else:
                self._later(name, running, overtaken.found, overtaken)
        except Postponed as postponed:
            self._later(name, running, registration, postponed.__cause__)
        except HubError as error:
            self._later(name, running, registration, error)
        except Exception as error:
            log.exception("the assignment of %s failed", name)
            self._later(name, running, registration, error)
        else:
            self._forget(name)

    def _forget(self, name: str) -> None:
        running = self._running.pop(name, None)
        if running is not None and running.timer is not None:
            running.timer.cancel()

    async def _chosen(self, registration: Registration) -> Registration:
        """The registration with its hub chosen, on disk. Raises as ``_decided`` and ``_standing``."""
        assert registration.intent is not None
        if registration.intent.hub in self._hubs:  # else it is not chosen yet, or unlinked since
            return registration
        decided = await self._decided(registration, await self._standing(registration.key))
        return await self._record(replace(decided, version=registration.version + 1), registration)

    async def _carried_out(self, registration: Registration) -> Registration:
        """The registration as it ends. Raises ``Postponed`` for what passes, and ``HubError``."""
        intent = registration.intent
        assert intent is not None

        async def stands() -> None:
            await self._standing(registration.key)

        await carry_out(intent, self._hubs, stands)
        return replace(
            registration, status=RegistrationStatus.ASSIGNED, substatus=intent.substatus, assigned_hub=intent.hub,
            device_id=intent.device_id,
        )  # fmt: skip

    async def _standing(self, key: EnrollmentKey) -> Enrollment:
        """The enrollment by which a device was let in. Raises ``HubError`` 404201, 403201 when it does so no more."""
        enrollment = await self._store.enrollment(self._scope, key)
        if enrollment is None:
            raise HubError(ENROLLMENT_NOT_FOUND, "The enrollment was deleted meanwhile.")
        if not enrollment.enabled:
            raise HubError(ENROLLMENT_DISABLED, "The enrollment was disabled meanwhile.")
        return enrollment

    def _later(self, name: str, running: _Running, registration: Registration, why: BaseException | None) -> None:
        log.warning("the assignment of %s is tried again in a moment: %s", name, why)
        due = self._ambient.now() + ASSIGNMENT_RETRY.open
        running.task = None
        running.timer = self._ambient.at(due, lambda: self._run(name, registration))

    def _asks(self, enrollment: Enrollment, registration: Registration) -> bool:
        """Whether the hub is chosen by a webhook."""
        intent = registration.intent
        assert intent is not None
        policy = plan.reprovision_policy(enrollment, str(intent.context["apiVersion"]))
        kept = intent.previous in self._hubs and not policy.update_hub
        return not kept and plan.allocation_of(enrollment, self._hubs.default) is AllocationKind.CUSTOM

    async def _decided(self, registration: Registration, enrollment: Enrollment) -> Registration:
        """The registration with its hub chosen. Raises ``HubError`` 400207, 400208."""
        intent = registration.intent
        assert intent is not None
        policy = plan.reprovision_policy(enrollment, str(intent.context["apiVersion"]))
        name, data, payload = registration.registration_id, None, None
        if self._asks(enrollment, registration) and enrollment.custom is not None:
            hubs = candidates(enrollment, self._hubs)
            body = self._webhook_body(enrollment, _context(intent), [hub.host for hub in hubs])
            found = await custom.ask(self._webhook, enrollment.custom, body, hubs)
            hub, data, payload = self._hubs[found.hub.host], found.data, found.payload
        elif intent.previous in self._hubs and not policy.update_hub:
            hub, payload = self._hubs[intent.previous], registration.payload
            intent = replace(intent, device_id=intent.previous_device)
        else:
            kind = plan.allocation_of(enrollment, self._hubs.default)
            hub = plan.pick(enrollment, kind, name, self._hubs)
        there = await hub.has(intent.device_id)
        decided = plan.decide(intent, hub, enrollment, policy, data=data, there=there)
        return replace(registration, intent=decided, payload=payload)

    async def _record(self, registration: Registration, before: Registration | None) -> Registration:
        """Write what has come of ``before``. Raises ``_OvertakenError`` when another node has changed it meanwhile."""

        def change(present: Registration | None) -> Registration:
            return registration if present is None or _mark(present) == _mark(before) else present

        made = await self._store.edit_registration(self._scope, registration.registration_id, change)
        assert made is not None
        if made != registration:
            raise _OvertakenError(made)
        return made

    async def _settle(self, registration: Registration, before: Registration) -> None:
        """The last write: the intent goes."""
        ended = replace(registration, intent=None, updated=self._ambient.now(), version=registration.version + 1)
        await self._record(ended, before)
        self._timeline.settled(ended)


class _OvertakenError(Exception):
    """Another node works on the registration too and was quicker; ``found`` is what it is now."""

    def __init__(self, found: Registration) -> None:
        super().__init__("another node works on it")
        self.found = found


def _failed(registration: Registration, error: HubError) -> Registration:
    """The registration as it ends by ``error``. Raises that if it passes."""
    if error.row.status >= SERVER_ERROR.status:
        raise error
    log.info("%s was not assigned: %s", registration.registration_id, error)
    return replace(
        registration, status=RegistrationStatus.FAILED, error_code=error.row.code, error_message=error.message
    )


def _mark(one: Registration | None) -> tuple[str, int] | None:
    """What tells one state of a registration from another."""
    return None if one is None else (one.operation_id, one.version)


def _require(finding: Finding) -> Finding | None:
    """A finding that lets the device in; ``None`` where its enrollment is disabled. Raises ``HubError`` for others."""
    verdict = finding.verdict
    if finding.challenge:
        raise ChallengedError(finding.challenge, verdict.tracking_id)
    if verdict.error is ENROLLMENT_DISABLED:
        return None
    if isinstance(finding.grant, HubError) and verdict.error is finding.grant.row:
        raise HubError(verdict.error, finding.grant.message, tracking_id=verdict.tracking_id)
    if verdict.error is not None:
        message = "Invalid certificate." if verdict.by_certificate else "Unauthorized"
        raise HubError(verdict.error, message, tracking_id=verdict.tracking_id)
    return finding


def _context(intent: Intent) -> Content:
    """What a webhook is told of the device."""
    context = {name: value for name, value in intent.context.items() if name not in {"apiVersion", "authority"}}
    if intent.previous:
        context |= {"currentIotHubHostName": intent.previous, "currentDeviceId": intent.previous_device}
    return context


def _not_found(registration_id: str) -> HubError:
    return HubError(REGISTRATION_NOT_FOUND, f"{registration_id} has not registered.")


def _retrieved(future: asyncio.Future[Registration]) -> None:
    """An error is told to whoever waits; nobody may be waiting any more."""
    if not future.cancelled():
        future.exception()
