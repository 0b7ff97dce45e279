"""A hub on several nodes: what a service says to one node reaches the device on another, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from node_stack import DEVICE, PATIENCE, Device, Stack, join

from muster.core.errors import (
    CONNECTION_CLOSED,
    DEVICE_DISABLED,
    DEVICE_NOT_FOUND,
    DEVICE_NOT_ONLINE,
    DEVICE_UNAUTHORIZED,
    METHOD_TIMEOUT,
    TAKEN_OVER,
    UNAVAILABLE,
    HubError,
)
from muster.identity.changes import ANY, Draft
from muster.identity.keys import Credentials
from muster.identity.model import IdentityKey, Status
from muster.messages.commands import Command
from muster.messages.methods import MethodAnswer
from muster.messages.queue import Settlement
from tests.nats_servers import NatsCluster, nats, running  # noqa: F401  (a fixture)
from tests.postgres import emptied_database

Join = Callable[[str], Awaitable[Stack]]


@pytest.fixture
def url() -> str:
    return emptied_database()


@pytest.fixture
async def joining(nats: NatsCluster, url: str, request: pytest.FixtureRequest) -> AsyncIterator[Join]:  # noqa: F811
    async with AsyncExitStack() as undo:
        yield lambda name: join(undo, name, nats.urls, url, request.node.name)


@pytest.fixture
async def nodes(joining: Join) -> list[Stack]:
    made = [await joining(name) for name in ("a", "b", "c")]
    await made[0].registry.create(Draft(key=DEVICE))
    return made


async def refused(call: Awaitable[object]) -> HubError:
    with pytest.raises(HubError) as error:
        await asyncio.wait_for(call, PATIENCE)
    return error.value


# --- sessions


async def test_a_device_that_connects_elsewhere_is_taken_over_and_seen_by_all(nodes: list[Stack]) -> None:
    a, b, c = nodes
    first = await a.connect()
    second = await b.connect()
    assert first.ended == [TAKEN_OVER]
    third = await c.connect()
    assert second.ended == [TAKEN_OVER]
    assert (await refused(nothing(a, DEVICE))).row is DEVICE_NOT_ONLINE
    assert third.ended == []
    assert [stack.table.connected_count() for stack in nodes] == [0, 0, 1]


async def nothing(stack: Stack, key: IdentityKey) -> None:
    """A call of a method that no device takes here."""
    stack.methods.elsewhere = None
    await stack.methods.invoke(key, "m", None)


async def test_many_devices_that_jump_between_nodes_have_one_session_each(nodes: list[Stack]) -> None:
    keys = [IdentityKey(f"d{number}") for number in range(20)]
    for key in keys:
        await nodes[0].registry.create(Draft(key=key))

    async def jump(at: int, key: IdentityKey) -> list[Device]:
        opened = []
        for number in range(6):
            device = await nodes[(at + number) % 3].connect(key, wait=False)
            opened.append(device)
            if number % 2:
                await asyncio.sleep(0.002 * (at % 5))
        for device in opened:
            with suppress(HubError):  # an older one, that has been taken over
                await device.stack.granted(device)
        return opened

    for opened in await asyncio.gather(*(jump(at, key) for at, key in enumerate(keys))):
        assert [device.session.ended for device in opened].count(False) == 1
        assert all(device.ended in ([], [TAKEN_OVER]) for device in opened)
    assert sum(stack.table.connected_count() for stack in nodes) == 20


async def test_a_node_that_is_killed_gives_its_devices_up_within_its_lease(nodes: list[Stack]) -> None:
    a, b, _ = nodes
    await a.connect()
    a.lease._task.cancel()  # type: ignore[union-attr]
    for subscription in a.node._subscriptions:
        await subscription.unsubscribe()
    began = asyncio.get_running_loop().time()
    await b.connect()
    assert asyncio.get_running_loop().time() - began > 2  # it might have lived


async def test_what_a_stale_session_reports_is_refused(nodes: list[Stack]) -> None:
    a, b, _ = nodes
    stale = await a.connect()
    await a.twins.report(DEVICE, {"n": 1})
    # b's node has found that a's lease is over, while a was stopped and has not noticed yet
    await b.several.directory.claim("hub", DEVICE, stale.session.generation_id, b.lease.name, 0.0)
    error = await refused(a.twins.report(DEVICE, {"n": 2}))
    assert error.row is TAKEN_OVER
    mixed = await asyncio.gather(
        a.twins.report(DEVICE, {"n": 3}), a.twins.patch(DEVICE, {"t": 1}, None), return_exceptions=True
    )
    assert isinstance(mixed[0], HubError)
    twin = await b.twins.get(DEVICE)
    assert (twin.reported.values, twin.tags) == ({"n": 1}, {"t": 1})  # services are no session


async def test_what_a_session_has_begun_is_written_before_the_newer_one_is_in(nodes: list[Stack]) -> None:
    a, b, _ = nodes
    await a.connect()
    reports = [asyncio.ensure_future(a.twins.report(DEVICE, {f"p{number}": number})) for number in range(50)]
    await asyncio.sleep(0)
    await b.connect()
    seen = (await b.twins.get(DEVICE)).reported.values
    ended = await asyncio.gather(*reports, return_exceptions=True)
    written = {f"p{number}": number for number, outcome in enumerate(ended) if not isinstance(outcome, Exception)}
    assert seen == written


# --- changes in the registry


@pytest.mark.parametrize("change", ["disabled", "deleted", "key"])
async def test_what_is_changed_through_one_node_ends_the_session_on_another(nodes: list[Stack], change: str) -> None:
    a, b, _ = nodes
    device = await b.connect()
    identity = await a.registry.get(DEVICE)
    assert (await b.registry.get(DEVICE)).status is Status.ENABLED  # b remembers it
    if change == "deleted":
        await a.registry.delete(DEVICE)
        row = DEVICE_NOT_FOUND
    elif change == "disabled":
        held = identity.authentication
        keys = Credentials(primary_key=held.primary_key, secondary_key=held.secondary_key)
        await a.registry.update(Draft(key=DEVICE, status=Status.DISABLED, credentials=keys), ANY)
        row = DEVICE_DISABLED
    else:
        other = "bmV3IGtleSBvZiB0aGUgZGV2aWNlIG9mIHRoZSB0ZXN0"
        await a.registry.update(Draft(key=DEVICE, credentials=Credentials(primary_key=other)), ANY)
        row = DEVICE_UNAUTHORIZED
    assert await device.until("ended") == [row]
    seen = await asyncio.gather(b.registry.get(DEVICE), a.registry.get(DEVICE), return_exceptions=True)
    assert repr(seen[0]) == repr(seen[1])  # b does not remember what it was


# --- methods


async def test_a_method_is_called_on_the_node_that_has_the_device(nodes: list[Stack]) -> None:
    a, b, c = nodes
    device = await b.connect()
    calls = [
        stack.methods.invoke(DEVICE, "reboot", b'{"n":%d}' % number, caller="me", tracking_id=str(number))
        for number, stack in enumerate((a, b, c, a))
    ]
    answers = await asyncio.gather(*calls)
    assert answers == [MethodAnswer(200, b'{"n":%d}' % number) for number in range(4)]
    assert sorted(request.payload for request in device.asked) == [b'{"n":%d}' % number for number in range(4)]
    assert [len(stack.methods.history(None, 10)) for stack in nodes] == [2, 1, 1]  # by the node that called
    assert all(stack.methods.in_flight == 0 for stack in nodes)


async def test_a_device_that_is_nowhere_is_not_online(nodes: list[Stack]) -> None:
    a, b, _ = nodes
    assert (await refused(a.methods.invoke(DEVICE, "m", None))).row is DEVICE_NOT_ONLINE
    device = await b.connect(takes=False)  # connected, but it takes no methods
    assert (await refused(a.methods.invoke(DEVICE, "m", None))).row is DEVICE_NOT_ONLINE
    b.table.close(device.session)
    assert (await refused(a.methods.invoke(IdentityKey("x"), "m", None))).row is DEVICE_NOT_FOUND


async def test_a_call_waits_for_a_device_that_comes_to_another_node(nodes: list[Stack]) -> None:
    a, b, _ = nodes
    call = asyncio.ensure_future(a.methods.invoke(DEVICE, "m", b"1", connect_timeout=PATIENCE))
    await asyncio.sleep(0.2)
    device = await b.connect(takes=False)
    await asyncio.sleep(0.2)
    b.take(device, "other")
    await asyncio.sleep(0.2)
    assert not call.done()
    b.take(device, "other", "m")
    assert await asyncio.wait_for(call, PATIENCE) == MethodAnswer(200, b"1")
    assert len(device.asked) == 1


async def test_a_device_that_does_not_answer_times_out_there(nodes: list[Stack]) -> None:
    a, b, _ = nodes
    device = await b.connect(answers=False)
    error = await refused(a.methods.invoke(DEVICE, "m", None, response_timeout=5))
    assert error.row is METHOD_TIMEOUT
    assert error.seconds == 5  # type: ignore[attr-defined]
    device.answer(device.asked[0])  # too late: nobody hears it
    assert len(device.asked) == 1


async def test_a_call_ends_with_the_session_that_it_belongs_to(nodes: list[Stack]) -> None:
    a, b, c = nodes
    older = await b.connect(answers=False)
    call = asyncio.ensure_future(a.methods.invoke(DEVICE, "m", None))
    await older.until("asked")
    newer = await c.connect()
    assert (await refused(call)).row is CONNECTION_CLOSED
    older.answer(older.asked[0])
    assert newer.asked == []  # it is not called again
    assert await a.methods.invoke(DEVICE, "m", b"2") == MethodAnswer(200, b"2")


async def test_a_call_ends_when_the_node_of_the_device_is_gone(nodes: list[Stack]) -> None:
    a, b, _ = nodes
    device = await b.connect(answers=False)
    call = asyncio.ensure_future(a.methods.invoke(DEVICE, "m", None, response_timeout=300))
    await device.until("asked")
    for subscription in b.node._subscriptions:
        await subscription.unsubscribe()
    b.lease._task.cancel()  # type: ignore[union-attr]
    assert (await refused(call)).row is CONNECTION_CLOSED
    assert (await refused(a.methods.invoke(DEVICE, "m", None))).row is DEVICE_NOT_ONLINE


# --- desired properties


async def test_desired_properties_reach_the_device_on_another_node_in_order(nodes: list[Stack]) -> None:
    a, b, c = nodes
    device = await b.connect()
    twin = await b.twins.get(DEVICE)
    b.table.twin_read(DEVICE, twin.desired.version)
    changes = [
        (a, b, c)[number % 3].twins.patch(DEVICE, None, {"n": number, f"p{number}": True}) for number in range(30)
    ]
    await asyncio.gather(*changes)
    async with asyncio.timeout(PATIENCE):
        while not device.desired or device.desired[-1][0] < twin.desired.version + 30:
            await asyncio.sleep(0.01)
    versions = [version for version, _ in device.desired]
    assert versions == sorted(set(versions))
    merged: dict[str, object] = {}
    for _, patch in device.desired:
        merged.update(patch)
    assert merged == (await a.twins.get(DEVICE)).desired.values


async def test_what_a_change_says_comes_as_it_was_said(nodes: list[Stack]) -> None:
    a, b, _ = nodes
    device = await b.connect()
    said = {"é€": ["\U0001f600", 2**52 - 1, 1.5], "deep": {"a": {"b": {}}}, "gone": None}
    await a.twins.patch(DEVICE, None, said)
    [(_, patch)] = await device.until("desired")
    assert patch == said


async def test_a_change_that_did_not_come_is_fetched(nodes: list[Stack]) -> None:
    a, b, _ = nodes
    device = await b.connect()
    version = (await b.twins.get(DEVICE)).desired.version
    b.table.twin_read(DEVICE, version)
    listener, a.twins._listener = a.twins._listener, a.table  # a tells nobody: the change is lost
    await a.twins.patch(DEVICE, None, {"lost": 1})
    a.twins._listener = listener
    await a.twins.patch(DEVICE, None, {"next": 2})
    [(seen, patch)] = await device.until("desired")
    assert (seen, patch) == (version + 2, {"lost": 1, "next": 2})


async def test_after_an_outage_of_the_bus_the_device_has_what_was_changed_meanwhile(url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as undo:
        servers = undo.enter_context(running(tmp_path))
        a, b = [await join(undo, name, servers.urls, url, "outage") for name in ("a", "b")]
        await a.registry.create(Draft(key=DEVICE))
        other = IdentityKey("other")
        await a.registry.create(Draft(key=other))
        device, gone = await b.connect(), await b.connect(other)
        b.table.twin_read(DEVICE, (await b.twins.get(DEVICE)).desired.version)
        lost = asyncio.Event()
        a.connection.when_changed(lambda connected: connected or lost.set())
        servers.kill()
        async with asyncio.timeout(PATIENCE):
            await lost.wait()
        await a.twins.patch(DEVICE, None, {"x": 1})
        await a.registry.delete(other)
        assert (await refused(a.methods.invoke(DEVICE, "m", None))).row in (CONNECTION_CLOSED, UNAVAILABLE)
        await asyncio.to_thread(servers.start)
        assert (await device.until("desired"))[0][1] == {"x": 1}
        assert await gone.until("ended") == [DEVICE_NOT_FOUND]
        assert device.ended == []


# --- commands


async def test_a_command_wakes_the_device_on_another_node(nodes: list[Stack]) -> None:
    a, b, c = nodes
    device = await b.connect()
    for number in range(5):
        await (a, c)[number % 2].commands.send(DEVICE, Command(body=b"%d" % number))
    received = await device.until("commands", 5)
    assert sorted(one.command.body for one in received) == [b"%d" % number for number in range(5)]
    for one in received:
        assert device.session.commands is not None
        await device.session.commands.settle(one.number, one.token, Settlement.COMPLETE)


async def test_a_command_in_the_hands_of_an_older_session_is_settled_once(nodes: list[Stack]) -> None:
    a, b, c = nodes
    older = await b.connect()
    await a.commands.send(DEVICE, Command(body=b"x"))
    [held] = await older.until("commands")
    newer = await c.connect()
    [again] = await newer.until("commands")
    assert (again.command.body, again.token != held.token) == (b"x", True)
    error = await refused(b.commands.settle(DEVICE, held.token, Settlement.COMPLETE))
    assert error.row.code == 412002
    await c.commands.settle(DEVICE, again.token, Settlement.COMPLETE)
    assert (len(newer.commands), again.command) == (1, held.command)
