"""How Azure spells a cloud-to-device message in MQTT: its topic (device.md 1 and 3.7)."""

from __future__ import annotations

from urllib.parse import quote

from muster.core.ambient import iso
from muster.identity.model import IdentityKey
from muster.messages.commands import Command

_SYSTEM = (
    ("mid", "message_id"),
    ("cid", "correlation_id"),
    ("uid", "user_id"),
    ("ct", "content_type"),
    ("ce", "content_encoding"),
)


def devicebound(key: IdentityKey) -> str:
    """The address of an identity's queue, without a slash at either end."""
    module = "" if key.module_id is None else f"/modules/{key.module_id}"
    return f"devices/{key.device_id}{module}/messages/devicebound"


def command_topic(key: IdentityKey, command: Command) -> str:
    """The topic of ``command``, with its properties as a bag.

    The bag always has ``%24.to``, system properties come first and their ``$`` is encoded, a blank is ``%20`` and a
    plus ``%2B``: SDKs fail otherwise. A property that is null stands without ``=``.
    """
    path = devicebound(key)
    bag = [f"%24.to={_quoted('/' + path)}"]
    bag += [f"%24.{name}={_quoted(value)}" for name, field in _SYSTEM if (value := getattr(command, field)) is not None]
    for name, moment in (("exp", command.expires), ("ctime", command.created)):
        if moment is not None:
            bag.append(f"%24.{name}={_quoted(iso(moment))}")
    if command.ack is not None:
        bag.append(f"iothub-ack={command.ack}")
    for name, value in command.properties.items():
        bag.append(_quoted(name) if value is None else f"{_quoted(name)}={_quoted(value)}")
    return f"{path}/{'&'.join(bag)}"


def _quoted(text: str) -> str:
    return quote(text, safe="")
