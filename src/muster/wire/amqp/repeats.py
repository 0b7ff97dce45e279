"""Transfers that differ from an earlier one of their link in nothing but id, tag and payload: known by their bytes.

Nearly all that a hub gets is such. A pattern holds what stays the same; where it fits, what the transfer says is known
without decoding it, because id and tag stand in places of fixed size. What fits no pattern is decoded, and teaches one.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from muster.wire.amqp.performatives import Transfer

if TYPE_CHECKING:
    from muster.wire.amqp.link import ReceivingLink

SHORTEST = 14
"""A frame's body with fewer bytes is no transfer of the form that is looked for."""

KEY_SIZES = {0x43: 8, 0x52: 9, 0x70: 12}
"""By the constructor of the handle, byte 6: where the delivery-id's four bytes begin.

What stands before is the key of a pattern: a transfer in a list of the short form, its size, the number of its fields,
the handle, and the constructor of the delivery-id.
"""

delivery_id = Struct(">I").unpack_from
"""Reads the delivery-id."""


class Pattern(NamedTuple):
    """What the transfers of ``link`` have in common. Places count from the beginning of the frame's body."""

    link: ReceivingLink
    id_at: int
    before_tag: bytes
    """Constructor and size of the tag, which begin four bytes behind ``id_at``."""
    tag_at: int
    tag_end: int
    rest: bytes
    payload_at: int
    message_format: int
    settled: bool


def key_of(data: bytes, start: int, end: int) -> bytes:
    """The key that a pattern for the body between ``start`` and ``end`` would have; empty when there is none for it."""
    if end - start < SHORTEST or data[start : start + 4] != b"\x00\x53\x14\xc0":
        return b""
    size = KEY_SIZES.get(data[start + 6], 0)
    return data[start : start + size] if size and data[start + size - 1] == 0x70 else b""


def pattern_of(link: ReceivingLink, transfer: Transfer, data: bytes, start: int, payload: int) -> Pattern | None:
    """The pattern that ``transfer``, as read from ``start`` to ``payload`` with a key, teaches.

    ``None`` for a part of a message, and for a tag of another form.
    """
    id_at = KEY_SIZES[data[start + 6]]
    tag_at = id_at + 6
    tag, before_tag = transfer.delivery_tag, data[start + id_at + 4 : start + tag_at]
    if transfer.more or transfer.aborted or tag is None or before_tag != bytes((0xA0, len(tag) & 0xFF)):
        return None
    tag_end = tag_at + len(tag)
    return Pattern(
        link, id_at, before_tag, tag_at, tag_end, data[start + tag_end : payload], payload - start,
        transfer.message_format or 0, bool(transfer.settled),
    )  # fmt: skip
