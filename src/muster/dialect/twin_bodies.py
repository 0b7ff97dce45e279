"""Twins as the REST data plane and devices see them (service.md 2.4, device.md 3.8)."""

from __future__ import annotations

from typing import Any, NamedTuple

from muster.core.ambient import iso
from muster.core.errors import HubError
from muster.core.json_text import encode, quote, text_of
from muster.core.memory_limits import IDENTITIES_REMEMBERED
from muster.dialect.etag import etag_of, twin_etag_of
from muster.dialect.identity_bodies import time_text
from muster.dialect.json_body import Members, compact
from muster.identity.model import Identity
from muster.identity.registry import Activity
from muster.twins.document import Content, Properties, Twin


class TwinChange(NamedTuple):
    """What a service's body asks for; ``None`` is a part that it does not hold."""

    tags: Any
    desired: Any


def read_twin(body: Members) -> TwinChange:
    """The members of a ``Twin`` that a service may write; it may send the others too, they are passed over.

    Raises ``HubError`` 400004 when ``properties`` is no object.
    """
    return TwinChange(body.raw("tags"), body.object("properties").get("desired"))


_NAMES = '{"deviceId":%s,%s'
_STATUS = '"deviceEtag":"%s","status":%s,"statusReason":%s,"statusUpdateTime":"%s",'
_CREDENTIALS = '"authenticationType":%s,"x509Thumbprint":{"primaryThumbprint":%s,"secondaryThumbprint":%s},'
_CAPABILITIES = {flag: f'"capabilities":{{"iotEdge":{text}}},' for flag, text in ((False, "false"), (True, "true"))}

_Parts = tuple[str, str, str, str]
_parts: dict[int, tuple[Identity, _Parts]] = {}
"""What identities put into the bodies of their twins, by ``id`` of the identity; the one that is held has it still."""


def twin_body(identity: Identity, twin: Twin, activity: Activity) -> bytes:
    """A ``Twin`` as JSON, members in the service's order; ``tags`` and ``deviceScope`` only where there are any.

    What the twin holds as text goes through as it is.
    """
    known = _parts.get(id(identity))
    names, status, credentials, rest = known[1] if known is not None and known[0] is identity else _remember(identity)
    connected, _, last_activity, waiting = activity
    tags, state = text_of(twin.tags), "Connected" if connected else "Disconnected"
    model_id = quote(twin.model_id) if twin.model_id else '""'
    tagged = "" if tags == "{}" else f'"tags":{tags},'
    return (  # by ``%`` it takes half as long again
        f'{names}"etag":"{twin_etag_of(twin.revision)}",{status}"connectionState":"{state}",'
        f'"lastActivityTime":"{time_text(last_activity)}","cloudToDeviceMessageCount":{waiting},{credentials}'
        f'"modelId":{model_id},"version":{twin.version},{tagged}'
        f'"properties":{{"desired":{properties_text(twin.desired)},"reported":{properties_text(twin.reported)}}},{rest}'
    ).encode()


def _remember(identity: Identity) -> _Parts:
    if len(_parts) >= IDENTITIES_REMEMBERED.open:
        _parts.clear()
    held, module_id, scope = identity.authentication, identity.module_id, identity.device_scope
    parts = (
        _NAMES % (quote(identity.device_id), "" if module_id is None else f'"moduleId":{quote(module_id)},'),
        _STATUS
        % (
            etag_of(identity.version),
            quote(identity.status),
            _text(identity.status_reason),
            time_text(identity.status_updated),
        ),
        _CREDENTIALS % (quote(held.type), _text(held.primary_thumbprint), _text(held.secondary_thumbprint)),
        (_CAPABILITIES[identity.iot_edge] if module_id is None else "")
        + ("" if scope is None else f'"deviceScope":{quote(scope)},')
        + f'"parentScopes":{encode(identity.parent_scopes)}}}',
    )
    _parts[id(identity)] = identity, parts
    return parts


def _text(text: str | None) -> str:
    return "null" if text is None else quote(text)


def properties_text(properties: Properties) -> str:
    """Desired or reported properties with all that is known of them, as JSON."""
    before, metadata = _open(properties.values), text_of(properties.metadata)
    return f'{before}"$metadata":{metadata},"$version":{properties.version}}}'


def _open(content: Content) -> str:
    """``content`` as text, with room for a further member at its end."""
    text = text_of(content)
    return "{" if text == "{}" else f"{text[:-1]},"


def device_twin(twin: Twin) -> bytes:
    """What a device gets of its own twin: no tags, no metadata."""
    desired, reported = twin.desired, twin.reported
    return compact(
        {
            "desired": {**desired.values, "$version": desired.version},
            "reported": {**reported.values, "$version": reported.version},
        }
    )


def desired_patch(patch: Content, version: int) -> bytes:
    """A change of the desired properties, as a connected device is told."""
    return f'{_open(patch)}"$version":{version}}}'.encode()


def device_error(error: HubError, tracking_id: str, now: float) -> bytes:
    """The answer to a device's request that was refused at ``now`` (seconds since 1970)."""
    return compact(
        {"errorCode": error.row.code, "trackingId": tracking_id, "message": error.message, "timestampUtc": iso(now)}
    )


def properties_body(properties: Properties) -> dict[str, Any]:
    """Desired or reported properties with all that is known of them."""
    return {**properties.values, "$metadata": properties.metadata, "$version": properties.version}
