"""The SASL mechanism TPM of the provisioning service (provisioning.md 6.5): what its responses and challenges hold.

The first byte of each is a control byte.
"""

from __future__ import annotations

from typing import NamedTuple

from muster.wire.amqp.decoding import AmqpDecodeError

FIRST = b"\x00"
"""The challenge that asks for the storage root key."""
_MORE, _LAST = b"\x80", b"\xc1"
"""A segment that is not the last; the last, and the second. Java takes just these two, Node looks at the top bits."""


class TpmInit(NamedTuple):
    """Who the client says that it is; ``endorsement_key`` is a TPM2B_PUBLIC."""

    id_scope: str
    registration_id: str
    endorsement_key: bytes


def parse_init(response: bytes) -> TpmInit:
    """Read the initial response. Raises ``AmqpDecodeError``."""
    head, *rest = response.split(b"\x00", 3)
    if head or len(rest) != 3:
        raise AmqpDecodeError("a TPM init is not id scope, registration id and endorsement key, NUL before each")
    try:
        return TpmInit(rest[0].decode(), rest[1].decode(), rest[2])
    except UnicodeDecodeError:
        raise AmqpDecodeError("a TPM init is not UTF-8") from None


def parse_response(response: bytes) -> bytes:
    """What a later response holds. Raises ``AmqpDecodeError``."""
    if response[:1] != b"\x00":
        raise AmqpDecodeError("a TPM response does not begin with NUL")
    return response[1:]


def segments(key: bytes) -> tuple[bytes, bytes]:
    """The two challenges in which ``key`` goes: a SASL frame may have 512 bytes."""
    half = (len(key) + 1) // 2
    return _MORE + key[:half], _LAST + key[half:]
