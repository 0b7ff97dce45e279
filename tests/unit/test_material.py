"""What a hub is made of: made once, the same ever after, whatever host names it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from muster.core.settings_store import SettingsOf
from muster.identity.policies import BUILT_IN, development_key, development_policies
from muster.node.facts import Reach, keep_reach, last_reach
from muster.node.material import Material, load_first_keys, load_keys, load_material, load_provisioning_policies
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.settings import SqliteHubSettingsStore
from muster.testing.clock import VirtualAmbient


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteHubSettingsStore]:
    writer = Writer(tmp_path / "hub.db", MIGRATIONS, asyncio.get_running_loop(), durable=False)
    reader = open_connection(writer.path, readonly=True)
    yield SqliteHubSettingsStore(writer, reader)
    reader.close()
    await writer.close()


def server_names(material: Material) -> set[str]:
    certificate = x509.load_pem_x509_certificate(material.server.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName))


async def test_keys_name_and_authority_stay_and_the_server_certificate_follows_the_host_names(
    store: SqliteHubSettingsStore,
) -> None:
    first = await load_material(store, VirtualAmbient(), ["my.hub.example"], development=False)
    keys = await load_first_keys(store, VirtualAmbient(), "my.hub.example", development=False)
    again = await load_material(store, VirtualAmbient(seed=1), ["my.hub.example"], development=False)
    assert again == first
    renamed = await load_material(store, VirtualAmbient(seed=2), ["other.example"], development=False)
    assert (renamed.id_scope, renamed.authority) == (first.id_scope, first.authority)
    assert keys.name == "my"
    assert await load_first_keys(store, VirtualAmbient(seed=2), "other.example", development=False) == keys, (
        "identities are kept under its name"
    )
    assert server_names(first) == {"my.hub.example", "localhost", "hub.localhost"}
    assert server_names(renamed) == {"other.example", "localhost", "hub.localhost"}


async def test_two_hubs_share_no_key_and_no_key_shows(store: SqliteHubSettingsStore) -> None:
    ambient = VirtualAmbient()
    made = await load_material(store, ambient, ["localhost"], development=False)
    first = await load_first_keys(store, ambient, "localhost", development=False)
    second = await load_keys(SettingsOf(store, "second"), ambient, "second")
    assert await load_keys(SettingsOf(store, "second"), ambient, "second") == second
    service = await load_provisioning_policies(store, ambient, development=False)
    policies = (*first.policies.values(), *second.policies.values(), service.owner)
    keys = [key for policy in policies for key in (policy.primary_key, policy.secondary_key)]
    assert len(set(keys)) == 2 * (2 * len(BUILT_IN) + 1)
    assert not [key for key in keys if key in repr([made, first, second])]
    assert "PRIVATE" not in repr(made)
    assert development_key("iothubowner/primary") not in keys


async def test_an_ephemeral_hub_has_the_keys_that_everyone_knows(store: SqliteHubSettingsStore) -> None:
    made = await load_first_keys(store, VirtualAmbient(), "localhost", development=True)
    keys = {policy.name: policy.primary_key for policy in made.policies.values()}
    assert keys == {name: development_key(f"{name}/primary") for name in BUILT_IN}
    other = {policy.primary_key for policy in development_policies("second")}
    assert len(other) == len(BUILT_IN)
    assert not other & set(keys.values())


async def test_the_reach_of_the_last_run_is_kept(store: SqliteHubSettingsStore) -> None:
    assert await last_reach(store) is None
    reach = Reach(["a.example", "localhost"], "dps.example", ["127.0.0.1"], {"mqtt": 1, "amqp": 2, "https": 3})
    await keep_reach(store, reach)
    assert await last_reach(store) == reach
    moved = Reach(["b.example"], "", ["127.0.0.1"], {"mqtt": 8883, "amqp": 5671, "https": 443})
    await keep_reach(store, moved)
    assert await last_reach(store) == moved
    more = replace(moved, hubs={"second": ["second.example"]})
    await keep_reach(store, more)
    assert await last_reach(store) == more
