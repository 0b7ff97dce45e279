"""Binding: one port on all addresses, none shared with anybody, and a word of help when it cannot be had."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence

import pytest

from muster.node.sockets import BindError, bind, listen
from tests.addresses import loopback

Bind = Callable[..., list[socket.socket]]


@pytest.fixture
def bound() -> Iterator[Bind]:
    """``bind``, whose sockets are closed at the end."""
    made: list[socket.socket] = []

    def make(addresses: Sequence[str], port: int = 0) -> list[socket.socket]:
        sockets = bind(addresses, port, "--mqtt-port")
        made.extend(sockets)
        return sockets

    yield make
    for sock in made:
        sock.close()


def reusing(address: str, port: int) -> socket.socket:
    """A socket of somebody else who says that he can share."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def test_a_port_that_the_kernel_chose_is_ours_alone_before_we_listen_and_after(bound: Bind) -> None:
    address = loopback()
    (sock,) = bound([address])
    port = sock.getsockname()[1]
    with pytest.raises(OSError, match="in use"):
        reusing(address, port)
    listen([sock], "--mqtt-port")
    with pytest.raises(OSError, match="in use"):
        reusing(address, port)


def test_a_port_that_the_kernel_chose_can_be_had_again_at_once(bound: Bind) -> None:
    address = loopback()
    (sock,) = bound([address])
    listen([sock], "--mqtt-port")
    port = sock.getsockname()[1]
    with socket.create_connection((address, port)) as client, sock.accept()[0] as accepted:
        accepted.close()  # who closes first keeps the port for a minute
        assert client.recv(1) == b""
    sock.close()
    listen(bound([address], port), "--mqtt-port")


def test_who_listens_second_is_told_which_port_is_taken(bound: Bind) -> None:
    address = loopback()
    with reusing(address, 0) as other:
        port = other.getsockname()[1]
        sockets = bound([address], port)
        other.listen()
        with pytest.raises(BindError, match=rf"port {port} on {address} is taken .* --mqtt-port"):
            listen(sockets, "--mqtt-port")


@pytest.mark.parametrize(
    ("addresses", "names"),
    [
        (["127.0.0.1", "127.0.0.1"], ["127.0.0.1"]),
        (["127.0.0.1", "0.0.0.0", "127.0.0.2"], ["0.0.0.0"]),
        (["0.0.0.0", "127.0.0.1", "0.0.0.0"], ["0.0.0.0"]),
        (["127.0.0.1", "127.0.0.2"], ["127.0.0.1", "127.0.0.2"]),
        (["127.1", "127.0.0.1"], ["127.0.0.1"]),
    ],
)
def test_addresses_that_include_each_other_are_one(bound: Bind, addresses: list[str], names: list[str]) -> None:
    sockets = bound(addresses)
    assert [sock.getsockname()[0] for sock in sockets] == names
    listen(sockets, "--mqtt-port")
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    port = sockets[0].getsockname()[1]
    for sock in sockets:
        sock.close()
    listen(bound(addresses, port), "--mqtt-port")


@pytest.mark.parametrize("address", ["127.0.0.256", "::g", "." * 70])
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(BindError, match="--bind"):
        bind([address], 0, "--mqtt-port")
