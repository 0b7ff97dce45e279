"""A provisioning service on a real store, with linked hubs that are dictionaries and can fail at a given step."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from muster.core.ambient import Ambient, SystemAmbient
from muster.core.bus import LocalBus
from muster.core.errors import HubError
from muster.core.limits import Profile
from muster.core.meters import Meters
from muster.dialect.enrollment_bodies import webhook_body
from muster.identity import sas
from muster.identity.keys import Credentials
from muster.identity.refusals import Refusals
from muster.identity.trust import Trust
from muster.provisioning.attempt import Attempt
from muster.provisioning.attestation.symmetric_key import derive
from muster.provisioning.contract import DeviceDraft
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.examiner import Examiner
from muster.provisioning.groups import Groups
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.model import DeviceData, EnrollmentKey, EnrollmentKind, Registration
from muster.provisioning.registrar import Registrar
from muster.provisioning.rules import Draft, DraftedKeys
from muster.provisioning.timeline import Timeline
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.provisioning import SqliteProvisioningStore
from muster.stores.sqlite.timeline import SqliteTimelineStore

SCOPE = "0ne00000001"
GROUP_KEY = "Z3JvdXAga2V5IG9mIHNpeHRlZW4gYnl0ZXMgYW5kIG1vcmU="


class Killed(BaseException):
    """The service is killed in the midst of a step."""


class Steps:
    """Counts the steps that hubs do; the one at ``kill_at`` is not done any more, or done and not answered."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.kill_at = 0
        self.before = True
        self.error: HubError | None = None
        """Raised in the place of the kill, once."""

    def step(self, what: str, *, before: bool) -> None:
        if before:
            self.done.append(what)
        if len(self.done) == self.kill_at and before is self.before:
            self.kill_at = 0
            if self.error is not None:
                raise self.error
            raise Killed(what)


class FakeHub:
    """A linked hub."""

    def __init__(self, host: str, steps: Steps) -> None:
        self.host = host
        self.devices: dict[str, tuple[Any, bool, DeviceData]] = {}
        self._steps = steps
        self.meanwhile: Callable[[], Awaitable[None]] = partial(asyncio.sleep, 0)
        """What others do while the hub is about to take a device."""

    def trusts(self, authority: str) -> bool:
        return False

    async def has(self, device_id: str) -> bool:
        return device_id in self.devices

    async def put(self, draft: DeviceDraft) -> None:
        self._steps.step(f"put {self.host}", before=True)
        await self.meanwhile()
        present = self.devices.get(draft.device_id)
        data = draft.data or (DeviceData() if present is None else present[2])
        self.devices[draft.device_id] = draft.credentials, draft.iot_edge, data
        self._steps.step(f"put {self.host}", before=False)

    async def data_of(self, device_id: str) -> DeviceData | None:
        present = self.devices.get(device_id)
        return None if present is None else present[2]

    async def remove(self, device_id: str, held: Credentials | None = None) -> None:
        self._steps.step(f"remove {self.host}", before=True)
        await asyncio.sleep(0)
        if held is None or (device_id in self.devices and self.devices[device_id][0] == held):
            self.devices.pop(device_id, None)
        self._steps.step(f"remove {self.host}", before=False)


class Service:
    """The running service; ``hubs`` outlive it."""

    def __init__(
        self, registrar: Registrar, enrollments: Enrollments, timeline: Timeline, refusals: Refusals, hubs: LinkedHubs
    ) -> None:
        self.registrar, self.enrollments, self.timeline = registrar, enrollments, timeline
        self.refusals, self.hubs = refusals, hubs
        self.asked: list[Any] = []
        self.answer: Any = None

    async def webhook(self, url: str, body: bytes) -> bytes:
        self.asked.append((url, json.loads(body)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()

    async def group(self, name: str = "group", **more: Any) -> None:
        key = EnrollmentKey(EnrollmentKind.GROUP, name)
        await self.enrollments.put(Draft(key=key, attestation=DraftedKeys(GROUP_KEY, GROUP_KEY), **more))

    async def register(self, name: str, *, version: str = "2021-10-01", payload: Any = None) -> Registration:
        """Register, and wait for the end."""
        attempt = attempt_of(name, version=version, payload=payload)
        operation = await self.registrar.register(attempt)
        assert operation.registration is not None
        return await self.settled(name)

    async def settled(self, name: str) -> Registration:
        async with asyncio.timeout(20):
            while True:
                found = await self.registrar.get(name.lower())
                if found.intent is None and name.lower() not in self.registrar._running:
                    return found
                await asyncio.sleep(0.002)


def attempt_of(name: str, *, version: str = "2021-10-01", payload: Any = None) -> Attempt:
    secret = sas.decode_key(derive(GROUP_KEY, name))
    assert secret is not None
    token = sas.make(f"{SCOPE}/registrations/{name}", 4_000_000_000, secret, "registration")
    return Attempt(
        transport="dps-test", peer="here", id_scope=SCOPE, registration_id=name, api_version=version, token=token,
        payload=payload,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def service(
    directory: Path, hubs: Iterable[FakeHub] | Mapping[str, FakeHub], meters: Meters | None = None,
    ambient: Ambient | None = None,
) -> AsyncIterator[Service]:  # fmt: skip
    """Start the service on what is kept in ``directory``, and stop it."""
    loop = asyncio.get_running_loop()
    ambient = SystemAmbient(loop) if ambient is None else ambient
    path = directory / "hub.db"
    writer = Writer(path, MIGRATIONS, loop, durable=False)
    reader = open_connection(path, readonly=True)
    store = SqliteProvisioningStore(writer, reader)
    trust = Trust(SCOPE, None, LocalBus(), ambient)
    groups = Groups(SCOPE, store, trust)
    await groups.load()
    refusals = Refusals(ambient)
    linked = LinkedHubs(hubs.values() if isinstance(hubs, Mapping) else hubs)
    examiner = Examiner(SCOPE, store, groups, trust=trust, ambient=ambient, refusals=refusals, profile=Profile.OPEN)
    timeline = Timeline(SqliteTimelineStore(SCOPE, writer, reader), ambient)
    made: list[Service] = []

    async def webhook(url: str, body: bytes) -> bytes:
        return await made[0].webhook(url, body)

    registrar = Registrar(
        SCOPE, store, examiner, timeline, hubs=linked,
        webhook=webhook, webhook_body=webhook_body, ambient=ambient,
        profile=Profile.OPEN, meters=meters,
    )  # fmt: skip
    enrollments = Enrollments(SCOPE, store, groups, hubs=linked, ambient=ambient, profile=Profile.OPEN)
    made.append(Service(registrar, enrollments, timeline, refusals, linked))
    await registrar.resume()
    try:
        yield made[0]
    finally:
        await registrar.close()
        reader.close()
        await writer.close()
