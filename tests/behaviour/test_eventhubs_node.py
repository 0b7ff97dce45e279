"""@azure/event-hubs and rhea against the built-in endpoint: positions, metrics, refusals, the redirect."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eventhub_server import ENTITY, POLICIES, EventHubServer

from muster.identity.sas import decode_key, make

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EventHubServer]:
    with EventHubServer(tmp_path) as server:
        yield server


def node(script: str, *arguments: str, given: str) -> Any:
    """Run a script under tests/node; the JSON it printed."""
    done = subprocess.run(
        ["node", script, *arguments],
        cwd=NODE_HOME,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read(server: EventHubServer, *readers: dict[str, Any], **connection: Any) -> list[dict[str, Any]]:
    """What each of ``readers`` saw, one after the other."""
    asked = {"connection": server.connection_string(**connection), "readers": readers}
    return node("read_from.js", given=json.dumps(asked))  # type: ignore[no-any-return]


def test_positions(server: EventHubServer) -> None:
    server.send("d", [b'{"n":%d}' % n for n in range(6)])
    time.sleep(0.01)
    server.send("d", [b'{"n":%d}' % n for n in range(6, 10)])
    numbers, enqueued = server.numbers(), server.places()[5][1]
    wanted = [
        ({"offset": "-1"}, 0),
        ({"offset": str(numbers[3])}, 4),
        ({"offset": str(numbers[3]), "isInclusive": True}, 3),
        ({"sequenceNumber": numbers[5]}, 6),
        ({"sequenceNumber": numbers[5], "isInclusive": True}, 5),
        ({"enqueuedOn": enqueued}, 6),
        ({"enqueuedOn": enqueued - 1}, 0),
    ]
    for size in (1, 100):
        found = read(
            server,
            *({"start": start, "count": 10 - first, "options": {"maxBatchSize": size}} for start, first in wanted),
        )
        assert [seen["sequences"] for seen in found] == [numbers[first:] for _, first in wanted]


def test_last_enqueued_properties_and_groups(server: EventHubServer) -> None:
    server.send("d", [b"a", b"b", b"c"])
    options = {"trackLastEnqueuedEventProperties": True}
    [seen, other] = read(
        server,
        {"start": {"offset": "-1"}, "count": 3, "options": options},
        {"start": {"offset": "-1"}, "count": 3, "group": "OTHER"},
    )
    assert (seen["last"]["sequenceNumber"], seen["last"]["offset"]) == (2, "2")
    assert other["sequences"] == [0, 1, 2]
    assert other["last"] is None


@pytest.mark.parametrize(
    ("reader", "connection", "code"),
    [
        ({}, {"key": "d3Jvbmc="}, "UnauthorizedError"),
        ({"group": "nobody"}, {}, "MessagingEntityNotFoundError"),
        ({"start": {"offset": "5000"}}, {}, "ArgumentError"),
    ],
)
def test_refusals(server: EventHubServer, reader: dict[str, Any], connection: dict[str, Any], code: str) -> None:
    [seen] = read(server, {"start": {"offset": "-1"}, "count": 1, **reader}, **connection)
    assert seen["error"]["code"] == code
    assert seen["error"]["message"]


def test_the_redirect_names_the_entity(server: EventHubServer) -> None:
    key = decode_key(POLICIES["service"].primary_key)
    assert key is not None
    token = make("localhost", int(time.time()) + 60, key, "service")
    found = node("find_entity.js", "localhost", str(server.port), "service@sas.root.localhost", given=token)
    assert found == {"condition": "amqp:link:redirect", "host": "localhost", "port": server.port, "entity": ENTITY}
