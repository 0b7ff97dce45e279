"""How AMQP clients say who they are: SASL PLAIN, tokens put to ``$cbs``, certificates (device.md 4.1, service.md 3.2).

A service's token is judged once and covers addresses. A device's is judged when it is put, so that the client hears,
and again when a session begins; so is a policy's, with which many devices may come over one connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from muster.core.errors import UNAUTHORIZED, HubError
from muster.dialect.amqp import PutToken
from muster.dialect.device_amqp import identity_path, plain_identity, token_audience, token_identity
from muster.heads import amqp_roles
from muster.heads.amqp_cuts import break_off
from muster.heads.client_certificates import tls_credential
from muster.heads.grants import Scope, scope_of
from muster.identity.authenticator import DeviceAttempt, ServiceAttempt
from muster.identity.bearer_gate import bearer_of
from muster.identity.mistakes import shown
from muster.identity.model import IdentityKey
from muster.identity.sas import SasError, parse
from muster.identity.verdict import Right, Verdict
from muster.wire.amqp.sasl import Plain

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection


Judged = Verdict | Callable[[], Awaitable[Verdict]]
"""A verdict, or how to come to it: that on a device has to be awaited."""


def put_token(connection: AmqpConnection, asked: PutToken) -> Judged:
    """Judge a token that was put.

    What it allows may be used from then on. Raises ``HubError`` 403005 when there are too many tokens.
    """
    key = token_identity(asked)
    if key is not None:
        return partial(device, connection, asked.token, key)
    gate, token = connection.hub.authenticator.bearer, bearer_of(asked.token)
    if gate is not None and token:
        scope = scope_of(asked.audience) if connection.head.hubs.knows(asked.host) else ()
        return partial(amqp_roles.admit, connection, gate, token, scope)
    return service(connection, asked.token, token_audience(asked))


def plain(connection: AmqpConnection, said: Plain) -> Judged:
    """Judge a user name and password, see ``put_token``."""
    found = plain_identity(said.user)
    if found is None:
        return service(connection, said.password, (), user=said.user)
    key, hub = found
    return partial(device, connection, said.password, key, user_hub=hub)


def service(connection: AmqpConnection, token: str, audience: tuple[str, ...], *, user: str = "") -> Verdict:
    """Judge a policy's token for ``audience``."""
    verdict = connection.hub.authenticator.service(
        ServiceAttempt(
            transport=connection.transport_name,
            peer=connection.peer,
            host=connection.host,
            token=token,
            required=_required(connection, token, audience),
            resource="/".join(audience),
            text_key=True,
            user=user,
        )
    )
    if verdict.allowed:
        scope = scope_of(audience)
        if Right.SERVICE_CONNECT in verdict.rights:
            connection.grants.add(scope, verdict)
        if Right.DEVICE_CONNECT in verdict.rights:
            connection.device_grants.add(scope, token, verdict)
        connection.proven()
    return verdict


def _required(connection: AmqpConnection, token: str, audience: tuple[str, ...]) -> Right:
    """What a token is put for: to be a device, when it is for one or its policy is good for nothing else."""
    try:
        name = parse(token).policy
    except SasError:
        name = None
    policy = connection.hub.authenticator.hub.policy(name or "")
    rights = Right.SERVICE_CONNECT if policy is None else policy.rights
    for_devices = Right.DEVICE_CONNECT in rights and Right.SERVICE_CONNECT not in rights
    wanted = audience[:1] == ("devices",) or (not audience and for_devices)
    return Right.DEVICE_CONNECT if wanted else Right.SERVICE_CONNECT


async def device(connection: AmqpConnection, token: str, key: IdentityKey, *, user_hub: str | None = None) -> Verdict:
    """Judge a device's or module's own token; with SASL PLAIN ``user_hub`` is what its user name calls the hub."""
    hub = connection.hub
    verdict = await hub.authenticator.device(
        DeviceAttempt(
            transport=connection.transport_name,
            peer=connection.peer,
            host=connection.host,
            key=key,
            token=token,
            user_hub=user_hub,
        )
    )
    if verdict.allowed and connection.hub is hub and not connection.closing:
        connection.device_grants.add(identity_path(key), token, verdict)
        connection.proven()
        if hub.faults is not None:
            break_off(connection, hub.faults, key)
    return verdict


def attempt(connection: AmqpConnection, key: IdentityKey) -> tuple[Scope | None, DeviceAttempt]:
    """What ``key`` has to show on this connection, with the scope of its token; ``None`` for a certificate.

    A token of somebody else is shown where there is nothing else, so that its refusal is that of the other transports.
    Raises ``HubError`` 401002, and keeps the refusal, when there is nothing.
    """
    grants = connection.device_grants
    found = grants.find(key)
    credential = tls_credential(connection.transport, without=None if found is None else found[1])
    if found is None and not credential:
        found = grants.mistaken()
    if found is None and not credential:
        seen = grants.described() if grants else connection.grants.described()
        wanted = shown("/".join(identity_path(key)))
        kept = connection.keep("link-scope", f"a token for {wanted}, or a client certificate", seen)
        raise HubError(UNAUTHORIZED, f"There is no token for '{wanted}'.", tracking_id=kept)
    made = DeviceAttempt(
        transport=connection.transport_name,
        peer=connection.peer,
        host=connection.host,
        key=key,
        token=None if found is None else found[1],
        **credential,
    )
    return None if found is None else found[0], made
