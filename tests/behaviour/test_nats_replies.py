"""Requests to NATS: one that nobody answers is asked again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg

from muster.core.errors import UNAVAILABLE, HubError
from muster.stores.nats import replies
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.replies import Replies
from tests.nats_servers import NatsCluster


class Server:
    """Answers the request that it is asked for the n-th time with the n-th of ``answers``, some messages each."""

    def __init__(self, connection: NatsConnection, *answers: list[bytes]) -> None:
        self.connection, self.left = connection, list(answers)
        self.subject = connection.client.new_inbox()

    async def start(self) -> None:
        await self.connection.client.subscribe(self.subject, cb=self._answer)

    async def _answer(self, message: Msg) -> None:
        for part in self.left.pop(0):
            await message.respond(part)


@pytest.fixture
async def connection(nats: NatsCluster) -> AsyncIterator[NatsConnection]:
    connection = await NatsConnection.open(nats.urls)
    yield connection
    await connection.close()


@pytest.fixture
async def asking(connection: NatsConnection, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replies]:
    monkeypatch.setattr(replies, "AGAIN_SECONDS", 0.2)
    asking = Replies(connection)
    await asking.open()
    yield asking
    await asking.close()


async def gathered(asking: Replies, server: Server) -> list[bytes]:
    await server.start()
    return [answer.data for answer in await asking.gather(server.subject, {}, lambda answer: answer.data == b"end")]


async def test_what_nobody_has_answered_is_asked_again(connection: NatsConnection, asking: Replies) -> None:
    assert await gathered(asking, Server(connection, [], [], [b"a", b"end"])) == [b"a", b"end"]


async def test_the_answers_of_two_times_do_not_mix(connection: NatsConnection, asking: Replies) -> None:
    assert await gathered(asking, Server(connection, [b"a"], [b"a", b"b", b"end"])) == [b"a", b"b", b"end"]


async def test_a_server_that_never_answers_is_given_up(
    connection: NatsConnection, asking: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "ANSWER_SECONDS", 0.5)
    with pytest.raises(HubError, match="in time") as caught:
        await gathered(asking, Server(connection, [b"a"], *([[]] * 10)))
    assert caught.value.row is UNAVAILABLE
