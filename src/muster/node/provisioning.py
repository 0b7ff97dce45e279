"""The provisioning service of a node put together."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from muster.core.provisioning_limits import ALLOCATION_ANSWER_BYTES, ALLOCATION_CALLS, ALLOCATION_WAIT
from muster.core.resource import load_record
from muster.dialect.enrollment_bodies import webhook_body
from muster.heads.arm.managed import ManagedService
from muster.heads.http.allocation import AllocationOperations
from muster.heads.http.device_registration import DeviceRegistrationOperations
from muster.heads.http.enrollments import EnrollmentOperations
from muster.heads.http.est import EstOperations
from muster.heads.http.network import NetworkOperations
from muster.heads.http.operations import Operation
from muster.heads.http.provisioning_answers import ProvisioningAnswers
from muster.heads.http.registrations import RegistrationOperations
from muster.heads.http.service_policies import PROVISIONING_PATH, PolicyOperations
from muster.heads.registration_requests import RegistrationRequests
from muster.identity.authenticator import Authenticator
from muster.identity.bearer_gate import BearerGate
from muster.identity.hub import hub_name, make_hub
from muster.identity.kept_policies import KeptPolicies
from muster.identity.network_access import PROVISIONING_SETTING, NetworkAccess
from muster.node.credential_policies import PolicyBook
from muster.node.foundation import Foundation
from muster.node.material import Material
from muster.node.parts import Parts
from muster.provisioning.contract import ProvisioningStore, Webhook, WebhookError
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.examiner import Examiner
from muster.provisioning.groups import Groups
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.registrar import Registrar
from muster.provisioning.timeline import Timeline

_GROUPS = "/enrollment-groups"
"""What is announced among the settings when a group was changed."""


class Keeping(NamedTuple):
    """What there is of the provisioning service before it runs: its store, who issues certificates, its policies."""

    store: ProvisioningStore
    issuers: PolicyBook
    policies: KeptPolicies


class Provisioning(NamedTuple):
    """What heads need of the provisioning service; ``operations`` are those of its REST API, for devices and for
    services, ``requests`` what devices ask over MQTT and AMQP; ``managed`` is how the management API sees it."""

    requests: RegistrationRequests
    timeline: Timeline
    operations: Sequence[Operation]
    network: NetworkAccess
    managed: ManagedService


async def open_provisioning(
    base: Foundation, keeping: Keeping, material: Material, hubs: LinkedHubs, first: Parts
) -> Provisioning:
    """Begin to provision devices for ``hubs``, after what was in progress at the last stop is taken up again.

    Registered certificate authorities are those of the ``first`` hub, and it keeps the refusals. Raises ``HubError``
    when a store fails.
    """
    certificates, refusals, meters = first.certificates, first.refusals, first.meters
    store, issuers, policies = keeping
    scope, ambient, profile = material.id_scope, base.ambient, base.settings.profile
    network = NetworkAccess(base.kept, PROVISIONING_SETTING, refusals, ambient)
    await network.load()
    groups = Groups(scope, store, certificates.trust)
    await groups.load()
    base.kept.follow(_GROUPS, groups.load)
    groups.announce = partial(base.kept.announce, _GROUPS)
    examiner = Examiner(
        scope, store, groups, trust=certificates.trust, ambient=ambient, refusals=refusals, profile=profile,
        ask=certificates.news.ask, policies=issuers, network=network,
    )  # fmt: skip
    entries = base.storage.timeline(scope, profile)
    base.undo.append(entries.flush)
    timeline = Timeline(entries, ambient)
    registrar = Registrar(
        scope, store, examiner, timeline, hubs=hubs, webhook=make_webhook(),
        webhook_body=webhook_body, ambient=ambient, profile=profile, meters=meters,
    )  # fmt: skip
    await hubs.load(base.kept)
    await registrar.resume()
    base.undo.append(registrar.close)
    service = make_hub(base.settings.all_hostnames, policies, profile, name=scope)
    bearer = BearerGate(base.issuers, base.decide, ambient, refusals, scope) if base.issuers else None
    gate = Authenticator(service, first.identities, ambient, refusals, bearer=bearer)
    policies.when_changed(gate.policies_changed)
    answers = ProvisioningAnswers(scope, gate, ambient, profile, meters=meters, network=network)
    enrollments = Enrollments(scope, store, groups, hubs=hubs, ambient=ambient, profile=profile)
    operations = [
        *EnrollmentOperations(enrollments, registrar, answers).table(),
        *RegistrationOperations(registrar, timeline, answers).table(),
        *DeviceRegistrationOperations(registrar, answers).table(),
        *EstOperations(scope, registrar, issuers).table(),
        *AllocationOperations(hubs, base.kept, answers).table(),
        *PolicyOperations(policies, PROVISIONING_PATH, answers.operation).table(),
        *NetworkOperations(network, answers.operation).table(),
    ]
    managed = await _managed(base, gate, policies, hubs, first=first, network=network)
    return Provisioning(RegistrationRequests(registrar, refusals, ambient), timeline, operations, network, managed)


async def _managed(
    base: Foundation,
    gate: Authenticator,
    policies: KeptPolicies,
    hubs: LinkedHubs,
    *,
    first: Parts,
    network: NetworkAccess,
) -> ManagedService:
    """Its name is its host's up to the first dot, as a hub's; its id scope and the host's other names will do too."""
    settings, scope = base.settings, gate.hub.name
    host = settings.dps_hostname or settings.hub_host
    names = [hub_name(one).lower() for one in (host, *settings.all_hostnames)]
    return ManagedService(
        names=tuple(dict.fromkeys([*names, scope.lower()])), host=host, scope=scope, gate=gate, policies=policies,
        hubs=hubs, store=base.kept, authorities=first.certificates.authorities, network=network,
        resource=await load_record(base.kept, "provisioning-resource"),
    )  # fmt: skip


def make_webhook() -> Webhook:
    """``provisioning.contract.Webhook``, so many calls at once, each in a thread; HTTPS is verified by the system's
    roots."""
    turns = asyncio.Semaphore(ALLOCATION_CALLS.open)

    async def post(url: str, body: bytes) -> bytes:
        async with turns:
            return await asyncio.to_thread(_post, url, body, float(ALLOCATION_WAIT.open), ALLOCATION_ANSWER_BYTES.open)

    return post


def _post(url: str, body: bytes, seconds: float, most: int) -> bytes:
    deadline = time.monotonic() + seconds
    try:
        parts = urlsplit(url)
        kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[parts.scheme]
        connection = kind(parts.hostname or "", parts.port, timeout=seconds)
        path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json; charset=utf-8"})
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise WebhookError(f"the webhook answered {answer.status}", answer.status)
            content = bytearray()
            while part := answer.read1(65_536):
                content += part
                if len(content) > most:
                    raise WebhookError(f"the webhook's answer has more than {most} bytes")
                if time.monotonic() > deadline:
                    raise WebhookError(f"the webhook did not answer within {seconds:.0f} seconds")
            return bytes(content)
        finally:
            connection.close()
    except TimeoutError as error:
        raise WebhookError(f"the webhook did not answer within {seconds:.0f} seconds") from error
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise WebhookError(f"the webhook cannot be reached ({type(error).__name__})") from error
