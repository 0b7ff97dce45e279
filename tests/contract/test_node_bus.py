"""The bus between nodes, over NATS core and by way of a keeper: notices heard once by everybody, questions, and what
both become in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from muster.core.bus import IDENTITY_CHANGED, MISSED, MOST_BYTES, NoAnswerError
from muster.core.errors import LOCK_LOST, MESSAGE_TOO_LARGE, NOT_FOUND, SERVER_ERROR, HubError
from muster.core.node_bus import CarriedBus
from muster.stores.keeper.bus import WorkerNode
from muster.stores.keeper.link import Link
from muster.stores.nats.bus import NatsNode, token
from muster.stores.nats.connection import NatsConnection
from tests.keepers import KeeperHere
from tests.nats_servers import NatsCluster, nats, running  # noqa: F401  (a fixture)

PATIENCE = 30.0
HUB = "Hub.one/ü"
Node = NatsNode | WorkerNode
Join = Callable[[str], "asyncio.Future[Node]"]


class Heard:
    """What a bus has told of a subject."""

    def __init__(self, bus: CarriedBus, subject: str) -> None:
        self.payloads: list[str] = []
        self._news = asyncio.Event()
        bus.subscribe(subject, self._take)

    def _take(self, payload: str) -> None:
        self.payloads.append(payload)
        self._news.set()

    async def count(self, wanted: int) -> list[str]:
        """Wait for so many."""
        async with asyncio.timeout(PATIENCE):
            while len(self.payloads) < wanted:
                self._news.clear()
                await self._news.wait()
        return self.payloads


@pytest.fixture(params=["nats", "keeper"])
async def join(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Join]:
    servers = request.getfixturevalue("nats") if request.param == "nats" else None
    async with AsyncExitStack() as stack:
        keeper = KeeperHere(tmp_path)
        if servers is None:
            await stack.enter_async_context(keeper)

        async def make(name: str) -> Node:
            if servers is None:
                return await worker_at(stack, keeper, name)
            return await joined(stack, servers, request.node.name, name)

        yield make  # type: ignore[misc]


async def worker_at(stack: AsyncExitStack, keeper: KeeperHere, name: str) -> WorkerNode:
    link = Link(keeper.directory, name)
    node = WorkerNode(link)
    await link.open()
    stack.push_async_callback(link.close)
    stack.callback(node.close)
    return node


async def joined(stack: AsyncExitStack, servers: NatsCluster, deployment: str, name: str) -> NatsNode:
    connection = await NatsConnection.open(servers.urls, name=name)
    stack.push_async_callback(connection.close)
    node = NatsNode(connection, deployment, name)
    await node.open()
    stack.push_async_callback(node.close)
    return node


async def test_all_nodes_hear_a_notice_once_and_the_own_one_at_once(join: Join) -> None:
    nodes = [await join(name) for name in ("a", "b.1", "c>")]
    heard = [Heard(node.bus(HUB), IDENTITY_CHANGED) for node in nodes]
    nodes[0].bus(HUB).publish(IDENTITY_CHANGED, "dévice/one\nline")
    assert heard[0].payloads == ["dévice/one\nline"]
    nodes[1].bus(HUB).publish(IDENTITY_CHANGED, "second")
    for one in heard:
        await one.count(2)
    nodes[2].bus(HUB).publish(IDENTITY_CHANGED, "last")  # what was heard twice would have come before that
    for one in heard:
        assert sorted(await one.count(3)) == ["dévice/one\nline", "last", "second"]


async def test_notices_of_a_node_come_in_their_order(join: Join) -> None:
    first, second = await join("a"), await join("b")
    heard = Heard(second.bus(HUB), IDENTITY_CHANGED)
    for number in range(500):
        first.bus(HUB).publish(IDENTITY_CHANGED, str(number))
        if number % 100 == 0:
            await asyncio.sleep(0)
    assert await heard.count(500) == [str(number) for number in range(500)]


async def test_hubs_hear_nothing_of_each_other(join: Join) -> None:
    first, second = await join("a"), await join("b")
    others = [Heard(second.bus("other"), IDENTITY_CHANGED), Heard(second.bus(), IDENTITY_CHANGED)]
    heard = Heard(second.bus(HUB), IDENTITY_CHANGED)
    first.bus(HUB).publish(IDENTITY_CHANGED, "d")
    await heard.count(1)
    assert [one.payloads for one in others] == [[], []]
    first.bus("other").publish(IDENTITY_CHANGED, "y")
    assert await others[0].count(1) == ["y"]


async def test_deployments_on_the_same_servers_hear_nothing_of_each_other(nats: NatsCluster) -> None:  # noqa: F811
    async with AsyncExitStack() as stack:
        first, second = [await joined(stack, nats, "d", name) for name in ("a", "b")]
        strange = await joined(stack, nats, "another", "c")
        other = Heard(strange.bus(HUB), IDENTITY_CHANGED)
        heard = Heard(second.bus(HUB), IDENTITY_CHANGED)
        strange.bus(HUB).publish(IDENTITY_CHANGED, "x")
        assert await other.count(1) == ["x"]
        first.bus(HUB).publish(IDENTITY_CHANGED, "d")
        assert await heard.count(1) == ["d"]
        assert other.payloads == ["x"]


async def test_a_listener_that_fails_does_not_keep_others_from_hearing(join: Join) -> None:
    first, second = await join("a"), await join("b")

    def failing(_: str) -> None:
        raise ValueError

    second.bus(HUB).subscribe(IDENTITY_CHANGED, failing)
    heard = Heard(second.bus(HUB), IDENTITY_CHANGED)
    first.bus(HUB).publish(IDENTITY_CHANGED, "1")
    first.bus(HUB).publish(IDENTITY_CHANGED, "2")
    assert await heard.count(2) == ["1", "2"]


async def test_a_node_is_asked_by_its_name(join: Join) -> None:
    first, second, third = [await join(name) for name in ("a", "b.1", "c")]

    async def twice(question: bytes) -> bytes:
        return question * 2

    async def refuse(_: bytes) -> bytes:
        raise HubError(LOCK_LOST, "not yours: 7")

    async def fail(_: bytes) -> bytes:
        raise ValueError

    async def long(_: bytes) -> bytes:
        return bytes(MOST_BYTES + 1)

    for subject, answer in (("twice", twice), ("refuse", refuse), ("fail", fail), ("long", long)):
        second.bus(HUB).answer(subject, answer)
    bus = first.bus(HUB)
    assert await bus.ask("b.1", "twice", b"\x00\xff", PATIENCE) == b"\x00\xff\x00\xff"
    assert len(await bus.ask("b.1", "twice", bytes(MOST_BYTES // 2), PATIENCE)) == MOST_BYTES
    for subject, question, row in (
        ("refuse", b"", LOCK_LOST), ("fail", b"", SERVER_ERROR), ("long", b"", MESSAGE_TOO_LARGE),
        ("unknown", b"", NOT_FOUND), ("twice", bytes(MOST_BYTES + 1), MESSAGE_TOO_LARGE),
    ):  # fmt: skip
        with pytest.raises(HubError) as refused:
            await bus.ask("b.1", subject, question, PATIENCE)
        assert refused.value.row is row, subject
        assert not isinstance(refused.value, NoAnswerError)
    with pytest.raises(HubError, match="not yours: 7"):
        await bus.ask("b.1", "refuse", b"", PATIENCE)
    with pytest.raises(HubError):  # the hub is not there
        await first.bus("other").ask("b.1", "twice", b"", PATIENCE)
    with pytest.raises(HubError):
        await bus.ask(third.name, "twice", b"", PATIENCE)


async def test_questions_do_not_wait_for_each_other(join: Join) -> None:
    first, second = await join("a"), await join("b")
    go = asyncio.Event()

    async def slow(_: bytes) -> bytes:
        await go.wait()
        return b"slow"

    async def quick(_: bytes) -> bytes:
        go.set()
        return b"quick"

    second.bus(HUB).answer("slow", slow)
    second.bus(HUB).answer("quick", quick)
    slowly = asyncio.ensure_future(first.bus(HUB).ask("b", "slow", b"", PATIENCE))
    await asyncio.sleep(0.05)
    assert await first.bus(HUB).ask("b", "quick", b"", PATIENCE) == b"quick"
    assert await slowly == b"slow"


async def test_a_node_that_is_not_there_is_known_at_once(join: Join) -> None:
    first = await join("a")
    began = asyncio.get_running_loop().time()
    with pytest.raises(NoAnswerError, match="not there") as refused:
        await first.bus(HUB).ask("nobody", "x", b"", 300)
    assert refused.value.gone
    assert asyncio.get_running_loop().time() - began < PATIENCE
    if isinstance(first, NatsNode):
        assert await first.is_there("nobody") is False
        assert await first.is_there("a") is True


@pytest.mark.parametrize("carrier", ["nats", "keeper"])
async def test_a_node_that_goes_while_it_works_is_noticed_before_the_deadline(
    carrier: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with AsyncExitStack() as outer, AsyncExitStack() as stack:
        first: Node
        second: Node
        if carrier == "nats":
            servers = request.getfixturevalue("nats")
            first = await joined(outer, servers, "going", "a")
            second = await joined(stack, servers, "going", "b")
        else:
            keeper = await outer.enter_async_context(KeeperHere(tmp_path))
            first, second = await worker_at(outer, keeper, "a"), await worker_at(stack, keeper, "b")
        begun = asyncio.Event()

        async def never(_: bytes) -> bytes:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        second.bus(HUB).answer("never", never)
        asking = asyncio.ensure_future(first.bus(HUB).ask("b", "never", b"", 300))
        await begun.wait()
        await stack.aclose()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(NoAnswerError) as refused:
                await asking
        assert not refused.value.gone  # it may have done something
        if isinstance(first, NatsNode):
            assert not first._watches


async def test_an_answer_that_takes_too_long_is_not_waited_for(join: Join) -> None:
    first, second = await join("a"), await join("b")

    async def never(_: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    second.bus(HUB).answer("never", never)
    for seconds in (0.2, 2.5):
        with pytest.raises(NoAnswerError) as refused:
            await first.bus(HUB).ask("b", "never", b"", seconds)
        assert not refused.value.gone


async def test_after_a_loss_all_look_at_everything_anew(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(running(tmp_path))
        first, second = [await joined(stack, servers, "d", name) for name in ("a", "b")]
        heard = Heard(second.bus(HUB), IDENTITY_CHANGED)
        missed = [Heard(node.bus(HUB), MISSED) for node in (first, second)]
        first.bus(HUB).publish(IDENTITY_CHANGED, "1")
        await heard.count(1)
        lost = asyncio.Event()
        first._connection.when_changed(lambda connected: connected or lost.set())
        servers.kill()
        async with asyncio.timeout(PATIENCE):
            await lost.wait()
        first.bus(HUB).publish(IDENTITY_CHANGED, "said into the void")
        with pytest.raises(NoAnswerError) as refused:
            await first.bus(HUB).ask("b", "x", b"", 300)
        assert not refused.value.gone
        assert await first.is_there("b") is None
        assert [one.payloads for one in missed] == [[], []]
        await asyncio.to_thread(servers.start)
        for one in missed:
            await one.count(1)
        # who was back first may not have heard the other: it is told by that one's word
        await missed[1].count(1)
        first.bus(HUB).publish(IDENTITY_CHANGED, "2")
        second.bus(HUB).publish(IDENTITY_CHANGED, "3")
        while "2" not in heard.payloads:
            first.bus(HUB).publish(IDENTITY_CHANGED, "2")
            await heard.count(len(heard.payloads) + 1)


async def test_what_a_node_could_not_say_makes_those_look_that_lost_nothing(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(running(tmp_path))
        first, second = [await joined(stack, servers, "d", name) for name in ("a", "b")]
        missed = Heard(second.bus(HUB), MISSED)
        lost, back = asyncio.Event(), asyncio.Event()
        first._connection.when_changed(lambda connected: back.set() if connected else lost.set())
        first._client._transport.close()  # type: ignore[union-attr]  # this node's connection alone
        async with asyncio.timeout(PATIENCE):
            await lost.wait()
            first.bus(HUB).publish(IDENTITY_CHANGED, "said into the void")
            await back.wait()
        assert await missed.count(1) == [""]


async def test_after_another_keeper_has_come_all_look_at_everything_anew(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(KeeperHere(tmp_path))
        first, second = [await worker_at(stack, keeper, name) for name in ("a", "b")]
        missed = [Heard(node.bus(HUB), MISSED) for node in (first, second)]
        heard = Heard(second.bus(HUB), IDENTITY_CHANGED)
        begun = asyncio.Event()

        async def never(_: bytes) -> bytes:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        second.bus(HUB).answer("never", never)
        asking = asyncio.ensure_future(first.bus(HUB).ask("b", "never", b"", 300))
        await begun.wait()
        await keeper.die()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(NoAnswerError) as refused:
                await asking
        assert not refused.value.gone
        first.bus(HUB).publish(IDENTITY_CHANGED, "said into the void")
        with pytest.raises(NoAnswerError) as refused:
            await first.bus(HUB).ask("b", "x", b"", 300)
        assert not refused.value.gone
        await keeper.start()
        for one in missed:
            await one.count(1)
        first.bus(HUB).publish(IDENTITY_CHANGED, "2")
        assert await heard.count(1) == ["2"]


async def test_a_worker_that_does_not_take_what_it_is_sent_is_cut_off_and_comes_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(KeeperHere(tmp_path))
        first, second, third = [await worker_at(stack, keeper, name) for name in ("a", "b", "c")]
        missed, heard = Heard(second.bus(HUB), MISSED), Heard(third.bus(HUB), IDENTITY_CHANGED)
        deaf = second._link._transport
        assert deaf is not None
        deaf.pause_reading()
        payload = "x" * 1_000_000
        sent = 0
        while keeper.keeper.workers.get("b") is not None and sent < 1000:
            first.bus(HUB).publish(IDENTITY_CHANGED, payload)
            sent += 1
            await heard.count(sent)  # it goes on for the others
        assert 50 < sent < 100
        deaf.resume_reading()
        await missed.count(1)


async def test_a_keeper_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.stores.keeper.link.SILENCE_SECONDS", 0.5)
    monkeypatch.setattr("muster.stores.keeper.link._LOOK_SECONDS", 0.1)
    async with AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(KeeperHere(tmp_path))
        first, second = [await worker_at(stack, keeper, name) for name in ("a", "b")]
        begun = asyncio.Event()

        async def slow(_: bytes) -> bytes:
            begun.set()
            await asyncio.sleep(1.5)
            return b"late"

        second.bus(HUB).answer("slow", slow)
        assert await first.bus(HUB).ask("b", "slow", b"", PATIENCE) == b"late"  # the keeper itself does not hang
        keeper.keeper.answers["ping"] = lambda *_: None
        with pytest.raises(NoAnswerError) as refused:
            await first.bus(HUB).ask("b", "slow", b"", PATIENCE)
        assert not refused.value.gone


def test_names_become_tokens_that_are_never_the_same() -> None:
    names = ["a", "A", "a.b", "a_b", "a*", "a>", "a b", "ü", "_", "", "a_002e_b", "😀"]
    made = [token(name) for name in names]
    assert len(set(made)) == len(names)
    assert all(char.isascii() and (char.isalnum() or char in "-_") for text in made for char in text)
