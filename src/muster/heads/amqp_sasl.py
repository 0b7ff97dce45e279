"""How an AMQP connection begins that comes with a SASL layer: the mechanisms, and who is asked what they say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from muster.heads import amqp_login, amqp_network
from muster.heads.back_off import hold
from muster.identity.mistakes import shown
from muster.identity.sas import resource_hosts
from muster.identity.verdict import Verdict
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.events import SaslStarted
from muster.wire.amqp.sasl import MECHANISMS, TPM, parse_plain

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection


def respond(connection: AmqpConnection, event: SaslStarted) -> None:
    """Decide on a mechanism, now or later. Who comes by another one than these two has said nothing yet."""
    if event.mechanism == "PLAIN":
        _plain(connection, event)
    elif event.mechanism == TPM:
        _tpm(connection, event)
    else:
        connection.sasl_outcome(event.mechanism in MECHANISMS)


def _plain(connection: AmqpConnection, event: SaslStarted) -> None:
    connection.host = event.hostname or ""
    try:
        said = parse_plain(event.response)
    except AmqpDecodeError as error:
        connection.keep("sasl", "user and token", str(error))
        connection.sasl_outcome(False)
        return
    registrations = connection.head.registrations
    if registrations is not None and registrations.login(connection, said):
        connection.sasl_outcome(True)
        return
    connection.choose_hub(*resource_hosts(said.password))
    if not amqp_network.admits(connection, shown(said.user)):
        connection.sasl_outcome(False)
        return
    verdict = amqp_login.plain(connection, said)
    if not isinstance(verdict, Verdict):
        connection.run(_judged(connection, verdict))
    elif verdict.allowed or not connection.hub.refusals.back_off.wait(verdict.peer, verdict.principal):
        connection.sasl_outcome(verdict.allowed)
    else:
        connection.run(_settle(connection, verdict))


async def _judged(connection: AmqpConnection, judge: Callable[[], Awaitable[Verdict]]) -> None:
    await _settle(connection, await judge())


async def _settle(connection: AmqpConnection, verdict: Verdict) -> None:
    """Say what came of it; that it was refused perhaps after a while."""
    if not verdict.allowed:
        await hold(connection.hub.refusals, verdict.peer, verdict.principal)
    if not connection.closing:
        connection.sasl_outcome(verdict.allowed)
        connection.read_sasl()


def _tpm(connection: AmqpConnection, event: SaslStarted) -> None:
    registrations = connection.head.registrations
    if registrations is None:
        connection.keep("sasl-tpm", "a provisioning service", "none is served here")
        connection.sasl_outcome(False)
        return
    connection.run(_answered(connection, registrations.tpm(connection, event.response)))


async def _answered(connection: AmqpConnection, answer: Awaitable[bytes | bool]) -> None:
    said = await answer
    if connection.closing:
        return
    if isinstance(said, bytes):
        connection.sasl_challenge(said)
    else:
        connection.sasl_outcome(said)
    connection.read_sasl()
