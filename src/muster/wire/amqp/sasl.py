"""The SASL layer's frames (AMQP 1.0 part 5, section 5.3)."""

from __future__ import annotations

from typing import Any, NamedTuple

from muster.wire.amqp.composite import (
    BINARY,
    STRING,
    SYMBOL,
    SYMBOLS,
    UBYTE,
    layout_named,
    make_composite,
    register,
)
from muster.wire.amqp.decoding import AmqpDecodeError, decode
from muster.wire.amqp.values import Described

TPM = "TPM"
MECHANISMS = ("MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL", TPM)
"""All that the clients ask for (clients.md section 4, provisioning.md 3.1)."""

OK, AUTH = 0, 1
"""Outcome codes: let in, refused."""


class SaslMechanisms(NamedTuple):
    """What the server offers."""

    sasl_server_mechanisms: tuple[str, ...] = ()


class SaslInit(NamedTuple):
    """What the client chose."""

    mechanism: str
    initial_response: bytes | None = None
    hostname: str | None = None


class SaslChallenge(NamedTuple):
    """A question of the server."""

    challenge: bytes


class SaslResponse(NamedTuple):
    """The client's answer to it."""

    response: bytes


class SaslOutcome(NamedTuple):
    """How it ended."""

    code: int
    additional_data: bytes | None = None


register(SaslMechanisms, 0x40, "sasl-mechanisms", SYMBOLS)
register(SaslInit, 0x41, "sasl-init", SYMBOL, BINARY, STRING)
register(SaslChallenge, 0x42, "sasl-challenge", BINARY)
register(SaslResponse, 0x43, "sasl-response", BINARY)
register(SaslOutcome, 0x44, "sasl-outcome", UBYTE, BINARY)


def decode_sasl(data: bytes, position: int, end: int) -> Any:
    """The SASL frame's body between ``position`` and ``end``. Raises ``AmqpDecodeError``."""
    described, stop = decode(data, position, end)
    layout = layout_named(described.descriptor) if isinstance(described, Described) else None
    if layout is None or not 0x40 <= layout.code <= 0x44 or stop != end:
        raise AmqpDecodeError("a SASL frame's body is no SASL performative")
    assert isinstance(described, Described)
    return make_composite(layout, described.value)


class Plain(NamedTuple):
    """What a PLAIN response says (RFC 4616)."""

    authorization: str
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Plain(user={self.user!r})"


def parse_plain(response: bytes) -> Plain:
    """Read ``authorization NUL user NUL password``. Raises ``AmqpDecodeError``, which never quotes it."""
    parts = response.split(b"\x00")
    if len(parts) != 3:
        raise AmqpDecodeError("a PLAIN response is not three texts with NUL between them")
    try:
        return Plain(*(part.decode() for part in parts))
    except UnicodeDecodeError:
        raise AmqpDecodeError("a PLAIN response is not UTF-8") from None
