"""A hub of this deployment as the provisioning service sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from registry_parts import Parts, credentials, draft, registry_parts

from muster.core.audit import BY_THE_HUB, Act
from muster.identity.changes import ANY, Match
from muster.identity.keys import Credentials
from muster.identity.model import AuthenticationType, Identity, IdentityKey
from muster.node.linked_hub import LocalHub

KEYS = credentials(
    type=AuthenticationType.SAS, primary_key="cHJpbWFyeSBrZXkgb2YgMzI=", secondary_key="c2Vjb25kYXJ5IGtleSBvZiAz"
)
SHOWN = credentials(type=AuthenticationType.SELF_SIGNED, primary_thumbprint="AB" * 32, secondary_thumbprint="CD" * 32)
AUTHORITY = credentials(type=AuthenticationType.CERTIFICATE_AUTHORITY)
OTHER = credentials(
    type=AuthenticationType.SAS, primary_key="YW5vdGhlcidzIGtleSBvZiAz", secondary_key=KEYS.secondary_key
)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with registry_parts(tmp_path) as parts:
        yield parts


def seen(parts: Parts) -> LocalHub:
    """The hub; nothing here asks for twins or chains."""
    return LocalHub(cast(Any, SimpleNamespace(host="hub.example")), parts.registry, cast(Any, None), cast(Any, None))


@pytest.mark.parametrize("held", [KEYS, SHOWN, AUTHORITY], ids=["keys", "thumbprints", "authority"])
async def test_a_device_is_removed_when_it_is_known_by_the_credentials(parts: Parts, held: Credentials) -> None:
    hub = seen(parts)
    await parts.registry.create(draft("dev", credentials=held))
    await hub.remove("dev", OTHER)
    assert await hub.has("dev"), "that one is somebody else's"
    await hub.remove("dev", held)
    assert not await hub.has("dev")
    await hub.remove("dev", held)
    await hub.remove("dev")


async def test_a_device_that_another_makes_while_it_is_being_removed_stays(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, registry, key = seen(parts), parts.registry, IdentityKey("dev")
    await registry.create(draft("dev", credentials=KEYS))
    get = registry.get

    async def get_and_lose(wanted: IdentityKey) -> Identity:
        found = await get(wanted)
        monkeypatch.setattr(registry, "get", get)
        await registry.delete(key, ANY)
        await registry.create(draft("dev", credentials=OTHER))
        return found

    monkeypatch.setattr(registry, "get", get_and_lose)
    await hub.remove("dev", KEYS)
    assert (await get(key)).authentication.primary_key == OTHER.primary_key


async def test_a_device_that_was_only_written_meanwhile_is_removed(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, registry = seen(parts), parts.registry
    await registry.create(draft("dev", credentials=KEYS))
    delete = registry.delete

    async def write_and_delete(wanted: IdentityKey, match: Match = ANY, by: Act = BY_THE_HUB) -> None:
        monkeypatch.setattr(registry, "delete", delete)
        await registry.update(draft("dev", credentials=KEYS, status_reason="read"), ANY)
        await delete(wanted, match, by)

    monkeypatch.setattr(registry, "delete", write_and_delete)
    await hub.remove("dev", KEYS)
    assert not await hub.has("dev")
