"""Connection strings of devices, services and Event Hubs clients (device.md 6.3, service.md 1.2 and 4.1).

``HostName=...;DeviceId=...;SharedAccessKey=...``: parts joined by ``;``, each a name and a value joined by the
first ``=``. Names are compared without case. A value cannot hold a ``;``, in no SDK either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.identity.model import IdentityKey
from muster.identity.sas import decode_key

LONGEST = 8192
"""Characters; a SAS token may be part of one."""

_NAMES = {
    "hostname": "host_name",
    "endpoint": "endpoint",
    "deviceid": "device_id",
    "moduleid": "module_id",
    "sharedaccesskeyname": "policy",
    "sharedaccesskey": "key",
    "sharedaccesssignature": "signature",
    "gatewayhostname": "gateway",
    "entitypath": "entity_path",
    "x509": "x509",
    "x509cert": "x509",
    "usedevelopmentemulator": "emulator",
}
_SPELLED = {
    "host_name": "HostName",
    "endpoint": "Endpoint",
    "device_id": "DeviceId",
    "module_id": "ModuleId",
    "policy": "SharedAccessKeyName",
    "key": "SharedAccessKey",
    "signature": "SharedAccessSignature",
    "gateway": "GatewayHostName",
    "entity_path": "EntityPath",
}
_FLAGS = {"x509": "x509", "emulator": "UseDevelopmentEmulator"}


class Kind(StrEnum):
    """Whose connection string it is."""

    DEVICE = "device"
    SERVICE = "service"
    EVENT_HUBS = "event-hubs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionString:
    """A connection string's parts, ``""`` for those it lacks. ``text`` writes it; its repr shows no secret."""

    host_name: str = ""
    endpoint: str = ""
    device_id: str = ""
    module_id: str = ""
    policy: str = ""
    key: str = field(default="", repr=False)
    signature: str = field(default="", repr=False)
    gateway: str = ""
    entity_path: str = ""
    x509: bool = False
    emulator: bool = False

    @property
    def kind(self) -> Kind:
        """Whose it is: an ``Endpoint`` makes it an Event Hubs client's, a ``DeviceId`` a device's."""
        if self.endpoint:
            return Kind.EVENT_HUBS
        return Kind.DEVICE if self.device_id else Kind.SERVICE

    @property
    def host(self) -> str:
        """Host name with its port, if any, from ``HostName`` or ``Endpoint``."""
        return urlsplit(self.endpoint).netloc if self.endpoint else self.host_name

    @property
    def identity(self) -> IdentityKey:
        """The device or module named."""
        return IdentityKey(self.device_id, self.module_id or None)

    @property
    def key_bytes(self) -> bytes:
        """The key decoded. Raises ``HubError`` 400005 when there is none."""
        decoded = decode_key(self.key)
        if decoded is None:
            raise HubError(ARGUMENT_NULL, "SharedAccessKey is missing, use a connection string that holds the key.")
        return decoded

    def text(self) -> str:
        """The connection string, secrets included.

        Raises ``HubError`` 400004 for a value that cannot stand in one.
        """
        parts = []
        for name, spelled in _SPELLED.items():
            value = getattr(self, name)
            if ";" in value:
                raise HubError(
                    ARGUMENT_INVALID, f"{spelled} holds a ';', which no connection string can, use an id without."
                )
            if value:
                parts.append(f"{spelled}={value}")
        parts += [f"{spelled}=true" for name, spelled in _FLAGS.items() if getattr(self, name)]
        return ";".join(parts)


def parse_connection_string(text: str) -> ConnectionString:
    """Read a connection string.

    Raises:
        HubError: 400004 or 400005 naming the part and what to do; never showing a value.
    """
    if len(text) > LONGEST:
        raise HubError(ARGUMENT_INVALID, f"The connection string is longer than {LONGEST} characters, shorten it.")
    text = text.strip()
    if text[:1] in {"'", '"'} and text[-1] == text[0]:
        text = text[1:-1]
    if not text:
        raise HubError(ARGUMENT_NULL, "The connection string is empty, is the variable that should hold it set?")
    values: dict[str, str] = {}
    for number, part in enumerate(text.split(";"), start=1):
        if not part.strip():
            continue
        name, equals, value = part.strip().partition("=")
        attribute = _NAMES.get(name.strip().lower())
        if not equals or attribute is None:
            raise HubError(
                ARGUMENT_INVALID,
                f"Part {number} of the connection string is not Name=value with a known name, the names are "
                f"{', '.join([*_SPELLED.values(), *_FLAGS.values()])}.",
            )
        if attribute in values:
            raise HubError(ARGUMENT_INVALID, f"{name.strip()} stands twice in the connection string, give it once.")
        values[attribute] = value.strip()
    flags = {name: values.pop(name, "").lower() == "true" for name in _FLAGS}
    parsed = ConnectionString(**values, **flags)  # type: ignore[arg-type]  # flags are bool, values str, by name
    _check(parsed)
    return parsed


def _check(parsed: ConnectionString) -> None:
    if not parsed.host_name and not parsed.endpoint:
        raise HubError(ARGUMENT_NULL, "HostName (or Endpoint) is missing from the connection string, add it.")
    if parsed.endpoint and not _host_of(parsed.endpoint):
        raise HubError(ARGUMENT_INVALID, "Endpoint is not an address, write it as sb://<host>/.")
    if parsed.module_id and not parsed.device_id:
        raise HubError(ARGUMENT_NULL, "ModuleId needs a DeviceId in the connection string, add it.")
    if parsed.key and decode_key(parsed.key) is None:
        raise HubError(ARGUMENT_INVALID, "SharedAccessKey is not base64, copy it again, its last = included.")
    if not (parsed.key or parsed.signature or parsed.x509):
        raise HubError(ARGUMENT_NULL, "SharedAccessKey is missing from the connection string, add it.")
    if parsed.kind is not Kind.DEVICE and not parsed.policy and not parsed.signature:
        raise HubError(
            ARGUMENT_NULL, "SharedAccessKeyName (or DeviceId) is missing from the connection string, add it."
        )


def _host_of(endpoint: str) -> str:
    try:
        return urlsplit(endpoint).hostname or ""
    except ValueError:
        return ""
