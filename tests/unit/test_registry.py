"""The identity registry: one identity at a time."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from registry_parts import Parts, credentials, draft, registry_parts

from muster.core import errors
from muster.core.errors import ErrorRow, HubError
from muster.identity.changes import ANY, KeyChoice, Match
from muster.identity.contract import Counts
from muster.identity.ids import PUNCTUATION, check_id
from muster.identity.model import NEVER, AuthenticationType, IdentityKey, Status
from muster.identity.registry import Activity

KEY = base64.b64encode(b"k" * 32).decode()
OTHER_KEY = base64.b64encode(b"o" * 32).decode()
SHA1, SHA256 = "ab" * 20, "CD" * 32


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with registry_parts(tmp_path) as parts:
        yield parts


def refused(caught: pytest.ExceptionInfo[HubError], row: ErrorRow, *words: str) -> None:
    """The refusal has this row, and its message says these words."""
    assert caught.value.row is row
    for word in words:
        assert word in caught.value.message


async def test_a_new_device_gets_two_keys_a_generation_and_a_version(parts: Parts) -> None:
    made = await parts.registry.create(draft("d"))
    keys = [made.authentication.primary_key, made.authentication.secondary_key]
    assert [len(base64.b64decode(key or "", validate=True)) for key in keys] == [32, 32]
    assert keys[0] != keys[1]
    assert made.generation_id == "638355968000000000", "1.7e9 seconds after 1970 as ticks of 100 ns since year 1"
    assert 1 <= made.version <= 2**30
    assert (made.status, made.status_updated, made.iot_edge, made.device_scope) == (
        Status.ENABLED,
        NEVER,
        False,
        None,
    )
    assert await parts.registry.get(IdentityKey("d")) == made
    assert parts.changed == [], "nobody can be connected as a device that was not there"


async def test_a_device_made_again_differs_in_generation_and_version(parts: Parts) -> None:
    first = await parts.registry.create(draft("d"))
    await parts.registry.delete(first.key)
    second = await parts.registry.create(draft("d"))
    assert first.generation_id != second.generation_id, "though the clock stands still"
    assert first.version != second.version
    assert parts.changed == ["d"]


async def test_given_keys_are_kept_as_they_are(parts: Parts) -> None:
    made = await parts.registry.create(draft("d", credentials=credentials(primary_key=KEY, secondary_key=OTHER_KEY)))
    assert (made.authentication.primary_key, made.authentication.secondary_key) == (KEY, OTHER_KEY)


async def test_empty_and_single_keys_are_filled_up(parts: Parts) -> None:
    node = credentials(type=AuthenticationType.SAS, primary_key="", secondary_key="")
    made = await parts.registry.create(draft("node", credentials=node))
    assert len(made.authentication.primary_key or "") == 44
    half = await parts.registry.create(draft("half", credentials=credentials(primary_key=KEY)))
    assert half.authentication.primary_key == KEY
    assert len(half.authentication.secondary_key or "") == 44


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("not base64!", "not base64"),
        ("c2hvcnQ=", "5 bytes"),
        (base64.b64encode(b"x" * 15).decode(), "15 bytes"),
        (base64.b64encode(b"x" * 65).decode(), "65 bytes"),
        (KEY.rstrip("="), "not base64"),
        (KEY + "\n", "not base64"),
        ("ключ", "not base64"),
    ],
)
@pytest.mark.parametrize("slot", ["primary", "secondary"])
async def test_a_wrong_key_is_refused_by_name_and_not_shown(parts: Parts, key: str, words: str, slot: str) -> None:
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft("d", credentials=credentials(**{f"{slot}_key": key})))
    refused(caught, errors.ARGUMENT_INVALID, f"{slot} key", words)
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize("size", [16, 64])
async def test_keys_of_the_shortest_and_longest_length_are_taken(parts: Parts, size: int) -> None:
    key = base64.b64encode(b"x" * size).decode()
    made = await parts.registry.create(draft("d", credentials=credentials(primary_key=key)))
    assert made.authentication.primary_key == key


async def test_thumbprints_make_a_self_signed_device_and_are_upper_case(parts: Parts) -> None:
    asked = credentials(primary_thumbprint=SHA1, secondary_thumbprint=SHA256)
    made = await parts.registry.create(draft("d", credentials=asked))
    authentication = made.authentication
    assert authentication.type is AuthenticationType.SELF_SIGNED
    assert (authentication.primary_thumbprint, authentication.secondary_thumbprint) == (SHA1.upper(), SHA256)
    assert (authentication.primary_key, authentication.secondary_key) == (None, None)


@pytest.mark.parametrize("value", ["ab" * 19, "ab" * 33, "zz" * 20, ":".join(["ab"] * 20) + ";", " " * 300 + SHA1])
async def test_a_wrong_thumbprint_is_refused_by_name(parts: Parts, value: str) -> None:
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft("d", credentials=credentials(secondary_thumbprint=value)))
    refused(caught, errors.ARGUMENT_INVALID, "secondary thumbprint", "hex digits")


@pytest.mark.parametrize(
    "value", [":".join(["ab"] * 20), "AB " * 20, "\u200eab-" + "ab-" * 18 + "ab", "ab" * 20 + "\n"]
)
async def test_a_thumbprint_may_be_written_as_tools_print_it(parts: Parts, value: str) -> None:
    made = await parts.registry.create(draft("d", credentials=credentials(primary_thumbprint=value)))
    assert made.authentication.primary_thumbprint == "AB" * 20


async def test_self_signed_needs_a_thumbprint(parts: Parts) -> None:
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft("d", credentials=credentials(type=AuthenticationType.SELF_SIGNED)))
    refused(caught, errors.ARGUMENT_NULL, "primary thumbprint")


@pytest.mark.parametrize("kind", [AuthenticationType.CERTIFICATE_AUTHORITY, AuthenticationType.NONE])
async def test_a_type_without_credentials_keeps_none(parts: Parts, kind: AuthenticationType) -> None:
    asked = credentials(type=kind, primary_key=KEY, primary_thumbprint=SHA1)
    made = await parts.registry.create(draft("d", credentials=asked))
    assert made.authentication.type is kind
    assert made.authentication.primary_key is None
    assert made.authentication.primary_thumbprint is None


async def test_an_existing_device_is_not_created_again(parts: Parts) -> None:
    made = await parts.registry.create(draft("d"))
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft("d", status=Status.DISABLED))
    refused(caught, errors.DEVICE_EXISTS, "A device with ID 'd' is already registered.")
    assert await parts.registry.get(made.key) == made


async def test_an_update_needs_the_device(parts: Parts) -> None:
    with pytest.raises(HubError) as caught:
        await parts.registry.update(draft("ghost"), ANY)
    refused(caught, errors.DEVICE_NOT_FOUND)
    assert caught.value.message == "ghost"


async def test_an_update_replaces_all_but_the_keys(parts: Parts) -> None:
    made = await parts.registry.create(draft("d", status_reason="new"))
    parts.ambient.advance(60)
    off = await parts.registry.update(draft("d", status=Status.DISABLED), Match(made.version))
    assert off.authentication == made.authentication
    assert (off.status, off.status_reason, off.status_updated) == (Status.DISABLED, None, parts.ambient.now())
    assert (off.generation_id, off.version) == (made.generation_id, made.version + 1)
    parts.ambient.advance(60)
    again = await parts.registry.update(draft("d", status=Status.DISABLED, status_reason="lost"), ANY)
    assert again.status_updated == off.status_updated, "the status did not change"
    assert again.status_reason == "lost"
    assert parts.changed == ["d", "d"]


async def test_keys_not_named_in_an_update_stay(parts: Parts) -> None:
    made = await parts.registry.create(draft("d"))
    update = await parts.registry.update(draft("d", credentials=credentials(primary_key=KEY)), ANY)
    assert update.authentication.primary_key == KEY
    assert update.authentication.secondary_key == made.authentication.secondary_key


async def test_another_type_brings_its_own_credentials(parts: Parts) -> None:
    made = await parts.registry.create(draft("d"))
    signed = await parts.registry.update(
        draft("d", credentials=credentials(type=AuthenticationType.SELF_SIGNED, primary_thumbprint=SHA1)), ANY
    )
    assert signed.authentication.primary_key is None
    kept = await parts.registry.update(draft("d"), ANY)
    assert kept.authentication == signed.authentication, "nothing asked, nothing changed"
    back = await parts.registry.update(draft("d", credentials=credentials(type=AuthenticationType.SAS)), ANY)
    assert len(back.authentication.primary_key or "") == 44
    assert back.authentication.primary_key != made.authentication.primary_key
    assert back.authentication.primary_thumbprint is None


async def test_a_thumbprint_left_out_of_an_update_is_withdrawn(parts: Parts) -> None:
    both = credentials(primary_thumbprint=SHA1, secondary_thumbprint=SHA256)
    await parts.registry.create(draft("d", credentials=both))
    one = await parts.registry.update(draft("d", credentials=credentials(primary_thumbprint=SHA1)), ANY)
    assert one.authentication.secondary_thumbprint is None


async def test_a_precondition_that_fails_changes_nothing(parts: Parts) -> None:
    made = await parts.registry.create(draft("d"))
    for attempt in (
        parts.registry.update(draft("d", status=Status.DISABLED), Match(made.version + 1)),
        parts.registry.delete(made.key, Match(made.version + 1)),
    ):
        with pytest.raises(HubError) as caught:
            await attempt
        refused(caught, errors.PRECONDITION_FAILED, "etag")
    assert await parts.registry.get(made.key) == made
    assert parts.changed == []
    await parts.registry.delete(made.key, Match(made.version))
    with pytest.raises(HubError) as caught:
        await parts.registry.delete(made.key, ANY)
    refused(caught, errors.DEVICE_NOT_FOUND)


async def test_a_status_reason_has_at_most_128_characters(parts: Parts) -> None:
    made = await parts.registry.create(draft("d", status_reason="é" * 128))
    assert made.status_reason == "é" * 128
    with pytest.raises(HubError) as caught:
        await parts.registry.update(draft("d", status_reason="é" * 129), ANY)
    refused(caught, errors.ARGUMENT_INVALID, "statusReason", "129")


async def test_every_legal_id_is_taken(parts: Parts) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    for name in (letters + PUNCTUATION, *PUNCTUATION, "x" * 128):
        made = await parts.registry.create(draft(name))
        assert (await parts.registry.get(made.key)).device_id == name


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("", errors.ARGUMENT_NULL, "empty"),
        ("x" * 129, errors.ARGUMENT_INVALID, "129"),
        ("a b", errors.ARGUMENT_INVALID, "' ' at position 1"),
        ("a/b", errors.ARGUMENT_INVALID, "'/' at position 1"),
        ("ab\n", errors.ARGUMENT_INVALID, "position 2"),
        ("é", errors.ARGUMENT_INVALID, "'\\xe9'"),
        ("a٣", errors.ARGUMENT_INVALID, "position 1"),
        ("a&b", errors.ARGUMENT_INVALID, "'&'"),
    ],
)
async def test_an_illegal_id_is_refused_by_character_and_place(
    parts: Parts, name: str, row: ErrorRow, words: str
) -> None:
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft(name))
    refused(caught, row, "device id", words)
    await parts.registry.create(draft("d"))
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft("d", name))
    refused(caught, row, "module id", words)


def test_check_id_knows_exactly_the_characters_of_the_service() -> None:
    accepted = set()
    for code in range(0x500):
        try:
            check_id("id", chr(code))
        except HubError:
            continue
        accepted.add(chr(code))
    expected = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-:.+%_#*?!(),=@;$'")
    assert accepted == expected


# --- modules


async def test_modules_live_under_a_device(parts: Parts) -> None:
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft("d", "m"))
    refused(caught, errors.DEVICE_NOT_FOUND)
    assert caught.value.message == "d"
    await parts.registry.create(draft("d"))
    made = await parts.registry.create(draft("d", "m", managed_by="me"))
    assert made.managed_by == "me"
    assert len(made.authentication.primary_key or "") == 44
    assert list(await parts.registry.modules("d")) == [made]
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft("d", "m"))
    refused(caught, errors.MODULE_EXISTS, "'m'", "'d'")
    changed = await parts.registry.update(draft("d", "m"), Match(made.version))
    assert (changed.managed_by, changed.version) == (None, made.version + 1)
    assert changed.authentication == made.authentication
    await parts.registry.delete(made.key, Match(changed.version))
    assert parts.changed == ["d/m", "d/m"]


async def test_what_is_missing_is_named(parts: Parts) -> None:
    for attempt in (parts.registry.get(IdentityKey("d", "m")), parts.registry.modules("d")):
        with pytest.raises(HubError) as caught:
            await attempt
        refused(caught, errors.DEVICE_NOT_FOUND)
    await parts.registry.create(draft("d"))
    for attempt in (
        parts.registry.get(IdentityKey("d", "m")),
        parts.registry.update(draft("d", "m"), ANY),
        parts.registry.delete(IdentityKey("d", "m")),
    ):
        with pytest.raises(HubError) as caught:
            await attempt
        refused(caught, errors.MODULE_NOT_FOUND, "d/m")


async def test_a_device_has_fifty_modules_at_most(parts: Parts) -> None:
    await parts.registry.create(draft("d"))
    for number in range(50):
        await parts.registry.create(draft("d", f"m{number}"))
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft("d", "m50"))
    refused(caught, errors.TOO_MANY_MODULES, "50")
    await parts.registry.update(draft("d", "m0"), ANY)


async def test_deleting_a_device_takes_its_modules_along(parts: Parts) -> None:
    await parts.registry.create(draft("d"))
    await parts.registry.create(draft("d", "m"))
    await parts.registry.delete(IdentityKey("d"))
    await parts.registry.create(draft("d"))
    assert list(await parts.registry.modules("d")) == []


# --- edge


async def test_an_edge_device_gets_a_scope_and_its_system_modules(parts: Parts) -> None:
    edge = await parts.registry.create(draft("e", iot_edge=True))
    assert edge.device_scope == f"ms-azure-iot-edge://e-{edge.generation_id}"
    assert edge.parent_scopes == ()
    modules = await parts.registry.modules("e")
    assert [(module.module_id, module.managed_by) for module in modules] == [
        ("$edgeAgent", "IotEdge"),
        ("$edgeHub", "IotEdge"),
    ]
    assert modules[0].authentication.primary_key != modules[1].authentication.primary_key
    updated = await parts.registry.update(draft("e", iot_edge=True, device_scope=edge.device_scope), ANY)
    assert updated.device_scope == edge.device_scope
    assert list(await parts.registry.modules("e")) == list(modules), "an update leaves them alone"
    with pytest.raises(HubError) as caught:
        await parts.registry.update(draft("e", iot_edge=True, device_scope="ms-azure-iot-edge://e-1"), ANY)
    refused(caught, errors.ARGUMENT_INVALID, "deviceScope")


async def test_services_do_not_write_system_modules(parts: Parts) -> None:
    await parts.registry.create(draft("e", iot_edge=True))
    for attempt in (
        parts.registry.create(draft("e", "$edgeAgent")),
        parts.registry.update(draft("e", "$edgeHub"), ANY),
        parts.registry.delete(IdentityKey("e", "$edgeHub")),
    ):
        with pytest.raises(HubError) as caught:
            await attempt
        refused(caught, errors.SYSTEM_MODULE, "$edge")
    assert len(await parts.registry.modules("e")) == 2


async def test_a_refused_creation_makes_no_system_modules(parts: Parts) -> None:
    await parts.registry.create(draft("d"))
    with pytest.raises(HubError):
        await parts.registry.create(draft("d", iot_edge=True))
    assert list(await parts.registry.modules("d")) == []


async def test_a_leaf_copies_its_parents_scope(parts: Parts) -> None:
    edge = await parts.registry.create(draft("e", iot_edge=True))
    scope = edge.device_scope
    assert scope is not None
    leaf = await parts.registry.create(draft("l", device_scope=scope))
    assert (leaf.device_scope, leaf.parent_scopes) == (scope, (scope,))
    other = await parts.registry.create(draft("m", parent_scopes=(scope,)))
    assert (other.device_scope, other.parent_scopes) == (scope, (scope,))
    freed = await parts.registry.update(draft("l", device_scope="", parent_scopes=(scope,)), ANY)
    assert (freed.device_scope, freed.parent_scopes) == (None, ()), "as the CLI takes a child away"


async def test_an_edge_device_names_its_parent_in_parent_scopes(parts: Parts) -> None:
    top = await parts.registry.create(draft("top", iot_edge=True))
    assert top.device_scope is not None
    low = await parts.registry.create(draft("low", iot_edge=True, parent_scopes=(top.device_scope,)))
    assert low.device_scope is not None
    assert low.device_scope != top.device_scope
    assert low.parent_scopes == (top.device_scope,)
    with pytest.raises(HubError) as caught:
        await parts.registry.update(draft("top", iot_edge=True, parent_scopes=(low.device_scope,)), ANY)
    refused(caught, errors.INVALID_DEVICE_SCOPE, "below it")
    with pytest.raises(HubError) as caught:
        await parts.registry.update(draft("top", iot_edge=True, parent_scopes=(top.device_scope,)), ANY)
    refused(caught, errors.INVALID_DEVICE_SCOPE)
    with pytest.raises(HubError) as caught:
        await parts.registry.update(draft("low", iot_edge=True, parent_scopes=("a", "b")), ANY)
    refused(caught, errors.ARGUMENT_INVALID, "parentScopes")


@pytest.mark.parametrize(
    "scope",
    ["e", "ms-azure-iot-edge://e", "ms-azure-iot-edge://e-1", "ms-azure-iot-edge://leaf-1", "ms-azure-iot-edge://-1",
     "ms-azure-iot-edge://nobody-638000000000000000", "ms-azure-iot-edge://d-1", "ms-azure-iot-edge://e-²"],
)  # fmt: skip
async def test_a_scope_of_no_edge_device_is_refused(parts: Parts, scope: str) -> None:
    await parts.registry.create(draft("e", iot_edge=True))
    await parts.registry.create(draft("leaf"))
    with pytest.raises(HubError) as caught:
        await parts.registry.create(draft("d", device_scope=scope))
    refused(caught, errors.INVALID_DEVICE_SCOPE)


async def test_a_device_may_become_an_edge_device_and_cease_to_be_one(parts: Parts) -> None:
    top = await parts.registry.create(draft("top", iot_edge=True))
    assert top.device_scope is not None
    leaf = await parts.registry.create(draft("d", device_scope=top.device_scope))
    edge = await parts.registry.update(
        draft("d", iot_edge=True, device_scope=leaf.device_scope, parent_scopes=leaf.parent_scopes), ANY
    )
    assert edge.device_scope not in {None, top.device_scope}
    assert edge.parent_scopes == (top.device_scope,)
    assert len(await parts.registry.modules("d")) == 2
    back = await parts.registry.update(draft("d", device_scope=edge.device_scope), ANY)
    assert (back.iot_edge, back.device_scope, back.parent_scopes) == (False, None, ())
    assert list(await parts.registry.modules("d")) == []


@pytest.mark.parametrize("edge_last", [True, False])
async def test_system_modules_follow_their_device_whoever_writes_at_the_same_time(
    parts: Parts, edge_last: bool
) -> None:
    for number in range(20):
        device = f"d{number}"
        await parts.registry.create(draft(device, iot_edge=edge_last))
        edges = (False, True) if edge_last else (True, False)
        await asyncio.gather(*(parts.registry.update(draft(device, iot_edge=edge), ANY) for edge in edges))
        now = await parts.registry.get(IdentityKey(device))
        assert len(await parts.registry.modules(device)) == (2 if now.iot_edge else 0)


# --- reading


async def test_devices_are_listed_up_to_a_thousand(parts: Parts) -> None:
    for name in ("c", "a", "b"):
        await parts.registry.create(draft(name))
    assert [found.device_id for found in await parts.registry.devices(2)] == ["a", "b"]
    for limit in (0, -1, 1001, 1000):
        assert len(await parts.registry.devices(limit)) == 3


async def test_statistics_count_devices_by_status_and_connection(parts: Parts) -> None:
    await parts.registry.create(draft("a"))
    await parts.registry.create(draft("b", status=Status.DISABLED))
    await parts.registry.create(draft("a", "m"))
    assert await parts.registry.counts() == Counts(enabled=1, disabled=1)
    assert await parts.registry.connected_count() == 0
    assert await parts.registry.activity(IdentityKey("a")) == Activity(False, NEVER, NEVER)


@pytest.mark.parametrize("choice", list(KeyChoice))
async def test_regenerating_replaces_the_chosen_keys(parts: Parts, choice: KeyChoice) -> None:
    made = await parts.registry.create(draft("d"))
    (renewed,) = await parts.registry.regenerate([made.key], choice)
    assert not isinstance(renewed, HubError)
    before, after = made.authentication, renewed.authentication
    assert (before.primary_key != after.primary_key) == (choice is not KeyChoice.SECONDARY)
    assert (before.secondary_key != after.secondary_key) == (choice is not KeyChoice.PRIMARY)
    assert renewed.version == made.version + 1
    assert await parts.registry.get(made.key) == renewed
    assert parts.changed == ["d"]


async def test_regenerating_says_for_each_why_not(parts: Parts) -> None:
    await parts.registry.create(draft("x", credentials=credentials(primary_thumbprint=SHA1)))
    await parts.registry.create(draft("d"))
    keys = [
        IdentityKey("x"),
        IdentityKey("d"),
        IdentityKey("ghost"),
        IdentityKey("d", "m"),
        IdentityKey("d", "$edgeHub"),
    ]
    outcomes = await parts.registry.regenerate(keys, KeyChoice.BOTH)
    rows = [outcome.row if isinstance(outcome, HubError) else None for outcome in outcomes]
    assert rows == [
        errors.KEYS_NOT_REGENERATED,
        None,
        errors.DEVICE_NOT_FOUND,
        errors.MODULE_NOT_FOUND,
        errors.SYSTEM_MODULE,
    ]
