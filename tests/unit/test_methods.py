"""Direct methods by themselves: a real registry and session table, a scripted device, and a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from registry_parts import Parts, draft, registry_parts

from muster.core import errors, method_limits
from muster.core.errors import TAKEN_OVER, ErrorRow, HubError
from muster.identity.model import IdentityKey
from muster.identity.verdict import Verdict
from muster.messages.methods import MethodAnswer, MethodRequest, Methods, MethodTimeoutError
from muster.sessions.table import Session

DEVICE, MODULE = IdentityKey("d"), IdentityKey("d", "m")
Call = asyncio.Task[MethodAnswer]


class Device:
    """The head's end of a session, which keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[MethodRequest] = []
        self.ended: list[ErrorRow] = []
        self.session: Session

    def invoke(self, request: MethodRequest) -> None:
        self.asked.append(request)

    def end(self, error: ErrorRow) -> None:
        self.ended.append(error)


def every(_name: str) -> bool:
    return True


class Desk:
    """A service's desk: calls methods of ``d`` and its module ``m``."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.ambient, self.sessions = parts, parts.ambient, parts.sessions
        self.methods = Methods(parts.registry, parts.sessions, parts.ambient)

    async def connect(self, key: IdentityKey = DEVICE, takes: Callable[[str], bool] | None = every) -> Device:
        device = Device()
        identity = await self.parts.registry.get(key)
        verdict = Verdict(
            tracking_id="t", at=0, transport="mqtt", peer="p", principal=str(key), checks=(), identity=identity
        )
        device.session = self.sessions.open(verdict, device)
        if takes is not None:
            self.sessions.take_methods(device.session, takes)
        return device

    async def call(self, key: IdentityKey = DEVICE, name: str = "reboot", **options: object) -> Call:
        """A call that has got as far as it can by itself."""
        payload = options.pop("payload", b"1")
        call = asyncio.create_task(self.methods.invoke(key, name, payload, **options))  # type: ignore[arg-type]
        await settle()
        return call

    def answer(self, device: Device, status: int = 200, payload: bytes = b"null", number: int = -1) -> None:
        self.methods.answer(device.session, device.asked[number].request_id, status, payload)

    def outcomes(self) -> list[int | str]:
        return [one.outcome for one in self.methods.history(None, 1000)]


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with registry_parts(tmp_path) as parts:
        await parts.registry.create(draft("d"))
        await parts.registry.create(draft("d", "m"))
        yield Desk(parts)


async def refused(call: Call) -> ErrorRow:
    with pytest.raises(HubError) as caught:
        await asyncio.wait_for(call, 5)
    return caught.value.row


# --- answers


@pytest.mark.parametrize("key", [DEVICE, MODULE], ids=str)
async def test_a_call_reaches_who_is_meant_and_brings_the_answer(desk: Desk, key: IdentityKey) -> None:
    devices = {other: await desk.connect(other) for other in (DEVICE, MODULE)}
    call = await desk.call(key, "reboot", payload=b'{"in":5}')
    [request] = devices[key].asked
    assert (request.name, request.payload) == ("reboot", b'{"in":5}')
    assert not devices[MODULE if key == DEVICE else DEVICE].asked
    desk.answer(devices[key], -7, b' {"a": 1e400}')
    assert await call == MethodAnswer(-7, b' {"a": 1e400}')


async def test_no_payload_is_null_both_ways(desk: Desk) -> None:
    device = await desk.connect()
    call = await desk.call(payload=None)
    assert device.asked[0].payload == b"null"
    desk.answer(device, 200, b"")
    assert await call == MethodAnswer(200, b"null")


async def test_calls_at_once_get_each_their_own_answer(desk: Desk) -> None:
    device = await desk.connect()
    calls = [await desk.call(payload=b"%d" % number) for number in range(method_limits.METHODS_IN_FLIGHT.open)]
    assert len({request.request_id for request in device.asked}) == len(calls)
    for number in reversed(range(len(calls))):
        desk.answer(device, number, device.asked[number].payload, number)
    assert await asyncio.gather(*calls) == [MethodAnswer(number, b"%d" % number) for number in range(len(calls))]


async def test_late_unknown_and_foreign_answers_are_passed_over(desk: Desk) -> None:
    device, module = await desk.connect(), await desk.connect(MODULE)
    call = await desk.call()
    desk.methods.answer(module.session, device.asked[0].request_id, 1, b"null")
    desk.methods.answer(device.session, "0" * 32, 2, b"null")
    await settle()
    assert not call.done()
    desk.answer(device, 3)
    desk.answer(device, 4)
    assert (await call).status == 3
    desk.answer(device, 5)


@pytest.mark.parametrize(
    "payload", [b"{", b"\xff", b"NaN", b"[" * 100_000, b'"' + b"a" * method_limits.METHOD_PAYLOAD_BYTES.open + b'"']
)
async def test_an_answer_that_is_not_json_or_too_large_is_502(desk: Desk, payload: bytes) -> None:
    device = await desk.connect()
    call = await desk.call()
    desk.answer(device, 200, payload)
    assert await refused(call) is errors.BAD_METHOD_ANSWER


async def test_the_largest_answer_passes_and_a_byte_order_mark_goes(desk: Desk) -> None:
    device = await desk.connect()
    largest = b'"' + b"a" * (method_limits.METHOD_PAYLOAD_BYTES.open - 2) + b'"'
    for payload, expected in ((largest, largest), (b"\xef\xbb\xbf1", b"1")):
        call = await desk.call(payload=largest)
        desk.answer(device, 200, payload)
        assert (await call).payload == expected


# --- time


async def test_offline_without_patience_is_404103_at_once(desk: Desk) -> None:
    call = await desk.call()
    with pytest.raises(MethodTimeoutError) as caught:
        await asyncio.wait_for(call, 5)
    assert (caught.value.row, caught.value.seconds) == (errors.DEVICE_NOT_ONLINE, 0)


async def test_connected_without_subscription_counts_as_offline(desk: Desk) -> None:
    device = await desk.connect(takes=None)
    assert await refused(await desk.call()) is errors.DEVICE_NOT_ONLINE
    desk.sessions.take_methods(device.session, every)
    call = await desk.call()
    desk.sessions.take_methods(device.session, None)
    assert await refused(await desk.call()) is errors.DEVICE_NOT_ONLINE
    desk.answer(device)
    assert (await call).status == 200


async def test_a_caller_waits_for_the_connection_as_long_as_it_said(desk: Desk) -> None:
    call = await desk.call(connect_timeout=20)
    desk.ambient.advance(19.9)
    await settle()
    assert not call.done()
    desk.ambient.advance(0.1)
    assert await refused(call) is errors.DEVICE_NOT_ONLINE


async def test_a_device_that_comes_in_time_gets_the_call_and_the_whole_response_time(desk: Desk) -> None:
    calls = [await desk.call(connect_timeout=20, response_timeout=30) for _ in range(3)]
    desk.ambient.advance(19)
    device = await desk.connect(takes=None)
    await settle()
    assert not device.asked
    desk.sessions.take_methods(device.session, lambda name: name == "other")
    await settle()
    assert not device.asked
    desk.sessions.take_methods(device.session, every)
    await settle()
    assert len(device.asked) == 3
    desk.ambient.advance(29)
    await settle()
    assert not any(call.done() for call in calls)
    for number in range(3):
        desk.answer(device, number, number=number)
    assert sorted([(await call).status for call in calls]) == [0, 1, 2]


async def test_no_answer_in_time_is_504101_just_before_the_end(desk: Desk) -> None:
    device = await desk.connect()
    call = await desk.call(response_timeout=5)
    desk.ambient.advance(4.8)
    await settle()
    assert not call.done()
    desk.ambient.advance(0.15)
    with pytest.raises(MethodTimeoutError) as caught:
        await asyncio.wait_for(call, 5)
    assert (caught.value.row, caught.value.seconds) == (errors.METHOD_TIMEOUT, 5)
    desk.answer(device)


# --- the session ends


async def test_a_connection_lost_ends_its_calls_at_once_with_404104(desk: Desk) -> None:
    device, module = await desk.connect(), await desk.connect(MODULE)
    calls, other = [await desk.call(connect_timeout=300) for _ in range(2)], await desk.call(MODULE)
    desk.sessions.close(device.session)
    assert [await refused(call) for call in calls] == [errors.CONNECTION_CLOSED] * 2
    assert not other.done()
    desk.answer(module)
    assert (await other).status == 200


async def test_a_takeover_ends_the_older_ones_calls_and_none_is_sent_twice(desk: Desk) -> None:
    older = await desk.connect()
    call = await desk.call(connect_timeout=300)
    newer = await desk.connect()
    assert older.ended == [TAKEN_OVER]
    assert await refused(call) is errors.CONNECTION_CLOSED
    assert not newer.asked
    desk.methods.answer(newer.session, older.asked[0].request_id, 200, b"null")
    call = await desk.call()
    desk.answer(newer)
    assert (await call).status == 200


async def test_a_device_deleted_meanwhile_ends_the_call(desk: Desk) -> None:
    await desk.connect()
    call = await desk.call()
    await desk.parts.registry.delete(DEVICE)
    assert await refused(call) is errors.CONNECTION_CLOSED
    assert await refused(await desk.call()) is errors.DEVICE_NOT_FOUND


async def test_a_hub_that_stops_lets_nobody_wait(desk: Desk) -> None:
    device = await desk.connect(MODULE)
    waiting, asked = await desk.call(connect_timeout=300), await desk.call(MODULE)
    desk.methods.close()
    assert await refused(waiting) is errors.UNAVAILABLE
    assert await refused(await desk.call()) is errors.UNAVAILABLE
    desk.answer(device)
    assert (await asked).status == 200


# --- refusals and bounds


@pytest.mark.parametrize(
    ("key", "row"),
    [(IdentityKey("nobody"), errors.DEVICE_NOT_FOUND), (IdentityKey("d", "nothing"), errors.MODULE_NOT_FOUND)],
    ids=str,
)
async def test_unknown_identities(desk: Desk, key: IdentityKey, row: ErrorRow) -> None:
    assert await refused(await desk.call(key, connect_timeout=300)) is row


@pytest.mark.parametrize(
    ("options", "row", "named"),
    [
        ({"name": ""}, errors.ARGUMENT_INVALID, "methodName"),
        ({"name": "n" * 101}, errors.ARGUMENT_INVALID, "methodName"),
        *(({"name": f"a{odd}b"}, errors.ARGUMENT_INVALID, "methodName") for odd in ' $()<>@,;:\\"/[]?={}\t\x7f+#é'),
        ({"payload": b"1" * 131_073}, errors.MESSAGE_TOO_LARGE, "payload"),
        ({"connect_timeout": -1}, errors.ARGUMENT_INVALID, "connectTimeoutInSeconds"),
        ({"connect_timeout": 301}, errors.ARGUMENT_INVALID, "connectTimeoutInSeconds"),
        ({"response_timeout": 4}, errors.ARGUMENT_INVALID, "responseTimeoutInSeconds"),
        ({"response_timeout": 301}, errors.ARGUMENT_INVALID, "responseTimeoutInSeconds"),
    ],
)
async def test_refusals_name_the_field(desk: Desk, options: dict[str, object], row: ErrorRow, named: str) -> None:
    device = await desk.connect()
    call = await desk.call(**options)  # type: ignore[arg-type]
    with pytest.raises(HubError, match=named) as caught:
        await call
    assert caught.value.row is row
    assert not device.asked


@pytest.mark.parametrize("name", ["n" * 100, "c1*reboot", "a.b-c_d", "!%&'*-.^_`|~"])
async def test_names_that_are_allowed(desk: Desk, name: str) -> None:
    device = await desk.connect()
    call = await desk.call(name=name)
    desk.answer(device)
    await call
    assert device.asked[0].name == name


async def test_calls_in_flight_are_bounded_for_each_identity(desk: Desk) -> None:
    calls = [await desk.call(connect_timeout=300) for _ in range(method_limits.METHODS_IN_FLIGHT.open)]
    assert await refused(await desk.call(connect_timeout=300)) is errors.METHODS_IN_FLIGHT_FULL
    assert await refused(await desk.call(MODULE)) is errors.DEVICE_NOT_ONLINE
    calls[0].cancel()
    await settle()
    device = await desk.connect()
    again = await desk.call()
    desk.answer(device)
    assert (await again).status == 200
    for call in calls[1:]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_call_that_was_given_up_is_forgotten(desk: Desk) -> None:
    device = await desk.connect()
    call, waiting = await desk.call(), await desk.call(MODULE, connect_timeout=300)
    for one in (call, waiting):
        one.cancel()
    await settle()
    desk.answer(device)
    module = await desk.connect(MODULE)
    await settle()
    assert not module.asked
    assert desk.outcomes() == ["Cancelled", "Cancelled"]
    await asyncio.gather(call, waiting, return_exceptions=True)


# --- history


async def test_history_tells_who_when_how_long_and_what_came_of_it(desk: Desk) -> None:
    began = desk.ambient.now()
    device = await desk.connect()
    call = await desk.call(caller="service (policy)", tracking_id="t1")
    desk.ambient.advance(2)
    desk.answer(device, 418)
    await call
    await refused(await desk.call(MODULE, "other"))
    newest, oldest = desk.methods.history(None, 10)
    assert (oldest.caller, oldest.tracking_id, oldest.key, oldest.name) == ("service (policy)", "t1", DEVICE, "reboot")
    assert (oldest.at, oldest.seconds, oldest.outcome) == (began, 2, 418)
    assert (newest.key, newest.name, newest.outcome) == (MODULE, "other", "DeviceNotOnline")
    assert desk.methods.history("d", 1) == [newest]
    assert desk.methods.history("elsewhere", 10) == []


async def test_history_is_bounded(desk: Desk) -> None:
    device = await desk.connect()
    for number in range(method_limits.METHOD_HISTORY.open + 5):
        call = asyncio.create_task(desk.methods.invoke(DEVICE, "m", None))
        await asyncio.sleep(0)
        desk.answer(device, number)
        await call
    assert desk.outcomes() == list(range(method_limits.METHOD_HISTORY.open + 4, 4, -1))
