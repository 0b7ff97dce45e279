"""A hub of this deployment as the provisioning service sees it."""

from __future__ import annotations

from muster.core.audit import Act
from muster.core.errors import DEVICE_NOT_FOUND, PRECONDITION_FAILED, HubError
from muster.identity.changes import ANY, Draft, Match
from muster.identity.hub import Hub
from muster.identity.keys import Credentials
from muster.identity.model import AuthenticationType, Identity, IdentityKey
from muster.identity.registry import Registry
from muster.identity.trust import Trust
from muster.node.hub import OpenHub
from muster.provisioning.contract import DeviceDraft
from muster.provisioning.model import DeviceData
from muster.twins.service import Twins

_ASSIGNING, _WITHDRAWING = (Act(f"registration.{what}", "provisioning service") for what in ("assign", "withdraw"))
"""By devices that register; the timeline tells more of them."""


def local_hub(hub: OpenHub) -> LocalHub:
    """``hub`` as the provisioning service sees it."""
    parts = hub.parts
    return LocalHub(hub.facts, parts.registry, parts.twins, parts.certificates.trust)


class LocalHub:
    """``provisioning.contract.LinkedHub`` for a hub in this process."""

    def __init__(self, hub: Hub, registry: Registry, twins: Twins, trust: Trust) -> None:
        self.host = hub.host
        self._registry = registry
        self._twins = twins
        self._trust = trust

    def trusts(self, authority: str) -> bool:
        return self._trust.trusts(authority)

    async def has(self, device_id: str) -> bool:
        return await self._get(IdentityKey(device_id)) is not None

    async def put(self, draft: DeviceDraft) -> None:
        key = IdentityKey(draft.device_id)
        present = await self._get(key)
        if present is None:
            await self._registry.create(
                Draft(key=key, credentials=draft.credentials, iot_edge=draft.iot_edge), _ASSIGNING
            )
        elif present.iot_edge is not draft.iot_edge or not _same(present, draft.credentials):
            await self._registry.update(
                Draft(
                    key=key, credentials=draft.credentials, iot_edge=draft.iot_edge, status=present.status,
                    status_reason=present.status_reason,
                    device_scope=None if draft.iot_edge else present.device_scope,
                    parent_scopes=present.parent_scopes,
                ),
                ANY, _ASSIGNING,
            )  # fmt: skip
        if draft.data is not None:
            await self._put_data(key, draft.data)

    async def _put_data(self, key: IdentityKey, data: DeviceData) -> None:
        twin = await self._twins.get(key)
        if (twin.tags, twin.desired.values) != (data.tags, data.desired):
            await self._twins.replace(key, dict(data.tags), dict(data.desired), by=_ASSIGNING)
        if twin.reported.values != data.reported:
            gone = dict.fromkeys(name for name in twin.reported.values if name not in data.reported)
            await self._twins.report(key, {**gone, **data.reported})

    async def data_of(self, device_id: str) -> DeviceData | None:
        key = IdentityKey(device_id)
        if await self._get(key) is None:
            return None
        twin = await self._twins.get(key)
        return DeviceData(twin.tags, twin.desired.values, twin.reported.values)

    async def remove(self, device_id: str, held: Credentials | None = None) -> None:
        key, match = IdentityKey(device_id), ANY
        while True:
            if held is not None:
                present = await self._get(key)
                if present is None or not _same(present, held):
                    return None
                match = Match(present.version)
            try:
                return await self._registry.delete(key, match, _WITHDRAWING)
            except HubError as error:
                if error.row is DEVICE_NOT_FOUND:
                    return None
                if error.row is not PRECONDITION_FAILED:  # else somebody wrote it meanwhile: look again
                    raise

    async def _get(self, key: IdentityKey) -> Identity | None:
        try:
            return await self._registry.get(key)
        except HubError as error:
            if error.row is not DEVICE_NOT_FOUND:
                raise
            return None


def _same(present: Identity, wanted: Credentials) -> bool:
    """Whether the hub knows the device by these credentials already."""
    held = present.authentication
    if held.type is not wanted.type:
        return False
    if held.type is AuthenticationType.SAS:
        return (held.primary_key, held.secondary_key) == (wanted.primary_key, wanted.secondary_key)
    return held.type is not AuthenticationType.SELF_SIGNED or (
        (held.primary_thumbprint, held.secondary_thumbprint) == (wanted.primary_thumbprint, wanted.secondary_thumbprint)
    )
