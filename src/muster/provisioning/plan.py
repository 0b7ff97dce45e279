"""What a registration is to lead to: pure decisions on enrollment, earlier registration and linked hubs."""

from __future__ import annotations

from dataclasses import replace

from muster.identity.keys import Credentials
from muster.identity.model import AuthenticationType
from muster.provisioning import allocation
from muster.provisioning.attempt import Attempt, Attested
from muster.provisioning.contract import LinkedHub
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.model import (
    AllocationKind,
    Content,
    DeviceData,
    Enrollment,
    Intent,
    Registration,
    ReprovisionPolicy,
    Substatus,
)

_LAST_VERSION_THAT_STAYS = "2018-04-01"
_FIRST_WITH_SAME_HUB = "2021-06-01"


def reprovision_policy(enrollment: Enrollment, api_version: str) -> ReprovisionPolicy:
    """What happens when the device comes again. Devices that speak an api-version of before re-provisioning stay where
    they are, unless the enrollment says otherwise (provisioning.md 7.5)."""
    if enrollment.reprovision is not None:
        return enrollment.reprovision
    return ReprovisionPolicy(update_hub=api_version[:10] > _LAST_VERSION_THAT_STAYS)


def allocation_of(enrollment: Enrollment, default: AllocationKind) -> AllocationKind:
    """The policy in force for an enrollment."""
    return enrollment.allocation or default


def first_intent(attempt: Attempt, attested: Attested, enrollment: Enrollment, present: Registration | None) -> Intent:
    """The intent before its hub is chosen: everything that the choice and what follows need of the device."""
    context = {"registrationId": attempt.registration_id, "apiVersion": attempt.api_version, **attested.context}
    if attempt.payload is not None:
        context["payload"] = attempt.payload
    if attested.authority:
        context["authority"] = attested.authority
    assigned = present is not None and bool(present.assigned_hub)
    device_id = enrollment.device_id or attempt.registration_id
    if present is not None and present.device_id and not enrollment.device_id:
        device_id = present.device_id  # in other letters it is the same device still
    return Intent(
        hub="", device_id=device_id, credentials=attested.credentials, iot_edge=enrollment.iot_edge, context=context,
        previous=present.assigned_hub if present is not None and assigned else "",
        previous_device=present.device_id if present is not None and assigned else "",
    )  # fmt: skip


def pick(enrollment: Enrollment, policy: AllocationKind, registration_id: str, hubs: LinkedHubs) -> LinkedHub:
    """The hub by a policy that asks nobody. Raises ``HubError`` 400208."""
    return hubs[allocation.POLICIES[policy](allocation.candidates(enrollment, hubs), registration_id).host]


def decide(
    intent: Intent, hub: LinkedHub, enrollment: Enrollment, policy: ReprovisionPolicy, *,
    data: DeviceData | None, there: bool,
) -> Intent:  # fmt: skip
    """The intent with its hub.

    Args:
        intent: what is known of the device.
        hub: where it goes.
        enrollment: by which it was let in.
        policy: how it is re-provisioned.
        data: the initial twin that a webhook gave, which goes before all else; ``None`` for none.
        there: whether the hub has the device already.
    """
    intent = replace(intent, hub=hub.host)
    again, moves = bool(intent.previous), intent.moves
    migrate = moves and policy.migrate_data and data is None
    reset = again and policy.update_hub and not policy.migrate_data
    initial = data or enrollment.initial_twin or DeviceData()
    if moves:
        substatus = Substatus.MIGRATED if policy.migrate_data else Substatus.RESET
    elif reset:
        substatus = Substatus.RESET
    else:
        substatus = Substatus.SAME_HUB if again and _is_new(intent.context) else Substatus.INITIAL
    return replace(
        intent,
        credentials=_credentials(intent, hub),
        migrate=migrate,
        there=there,
        fresh=moves or reset or not there or (again and data is not None),
        data=initial,
        substatus=substatus,
    )


def _is_new(context: Content) -> bool:
    return str(context.get("apiVersion", ""))[:10] >= _FIRST_WITH_SAME_HUB


def _credentials(intent: Intent, hub: LinkedHub) -> Credentials:
    """What the hub will know the device by: where the hub trusts the authority itself, any certificate of that one in
    the device's name, so that one can be renewed without registering again."""
    authority = intent.context.get("authority", "")
    if authority and hub.trusts(authority) and intent.device_id == intent.context["registrationId"]:
        return Credentials(AuthenticationType.CERTIFICATE_AUTHORITY)
    return intent.credentials
