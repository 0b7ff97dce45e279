"""Coverage-guided fuzzing of what AMQP clients send: only declared errors come out, whatever comes in.

usage: make fuzz [FUZZ_ARGS="-max_total_time=600"]     (arguments are libFuzzer's)

The first byte of an input says what the rest is: the bytes of a connection from its first, frames on a connection with
a link in each direction, a message, or telemetry. A finding is left as a file ``crash-...`` under build/fuzz; give its
path as the argument to see it again.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["muster.wire.amqp", "muster.dialect"]):
    from muster.core.errors import HubError
    from muster.dialect.amqp_telemetry import TelemetryReader
    from muster.wire.amqp.decoding import AmqpDecodeError
    from muster.wire.amqp.frames import AMQP_HEADER, SASL_HEADER, encode_frame
    from muster.wire.amqp.message import Message, Properties, decode_message, encode_message
    from muster.wire.amqp.performatives import Open
    from muster.wire.amqp.session import Limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wire"))
from amqp_peer import Peer, begin, credit, frame, receiver, sender, transfer

CORPUS = Path("build/fuzz/amqp")
_MESSAGE = encode_message(
    Message(data=[b"body"], properties=Properties(message_id="1"), application_properties={"a": 1})
)


def connection(data: bytes) -> None:
    """All of a connection, in pieces whose size the first byte says."""
    step = data[0] + 1 if data else 1
    Peer(Limits(unproven_bytes=1 << 20)).send(*(data[at : at + step] for at in range(1, len(data), step)))


def frames(data: bytes) -> None:
    """The bodies of frames, each behind a byte for its channel and one for its length."""
    peer = Peer.opened()
    peer.send(frame(receiver()), frame(sender()), frame(credit(0, 5)))
    while len(data) > 1:
        body, rest = data[2 : 2 + data[1]], data[2 + data[1] :]
        peer.send(encode_frame(data[0] % 3, body))
        data = rest


def message(data: bytes) -> None:
    """One message."""
    decode_message(data)


def telemetry(data: bytes) -> None:
    """Two messages of one link, of which the second may be known by its bytes: it must mean the same."""
    reader = TelemetryReader()
    first = reader.read(data)
    if reader.read(data) != first:
        raise AssertionError("the same message was read in two ways")


TARGETS = (connection, frames, message, telemetry)


def one_input(data: bytes) -> None:
    """What libFuzzer calls."""
    if not data:
        return
    with contextlib.suppress(AmqpDecodeError, HubError):
        TARGETS[data[0] % len(TARGETS)](data[1:])


def seeds() -> list[bytes]:
    """Good inputs to begin with."""
    opening = AMQP_HEADER + frame(Open("c")) + frame(begin()) + frame(sender()) + frame(transfer(), _MESSAGE)
    bodies = [frame(one)[8:] for one in (receiver(2), sender(3), credit(0, 9), begin())]
    bodies.append(frame(transfer(), _MESSAGE)[8:])
    return [
        b"\x00\xff" + opening,
        b"\x00\xff" + SASL_HEADER + opening,
        b"\x01" + b"".join(bytes([0, min(len(body), 255)]) + body[:255] for body in bodies),
        b"\x02" + _MESSAGE,
        b"\x03" + _MESSAGE,
    ]


def main() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (CORPUS / f"seed-{number}").write_bytes(seed)
    atheris.Setup([*sys.argv, "-artifact_prefix=build/fuzz/", *([] if _names_a_file() else [str(CORPUS)])], one_input)
    atheris.Fuzz()


def _names_a_file() -> bool:
    return any(not argument.startswith("-") for argument in sys.argv[1:])


if __name__ == "__main__":
    main()
