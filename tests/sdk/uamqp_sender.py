"""Sends cloud-to-device messages with uamqp, and prints what became of each: ``sent`` or the error.

usage: uamqp_sender.py amqp|websocket|cli|credential, with the names of `muster env` in the environment and on
standard input a JSON line for each message: device, body, properties. ``cli``: the way
`az iot device c2d-message send` logs in;
``credential``: with azure-identity's, as AUTHORITY, TENANT, CLIENT, SECRET and AUTHORITY_CA say.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import uamqp
from azure.identity import ClientSecretCredential
from azure.iot.hub import IoTHubRegistryManager
from uamqp import errors


def registry_manager(transport: str) -> Callable[..., Any]:
    kind = uamqp.TransportType.AmqpOverWebsocket if transport == "websocket" else uamqp.TransportType.Amqp
    manager = IoTHubRegistryManager.from_connection_string(os.environ["SERVICE_CONNECTION_STRING"], kind)
    return manager.send_c2d_message  # type: ignore[no-any-return]


def with_credential() -> Callable[..., Any]:
    names = os.environ
    credential = ClientSecretCredential(
        names["TENANT"], names["CLIENT"], names["SECRET"], authority=names["AUTHORITY"],
        disable_instance_discovery=True, connection_verify=names["AUTHORITY_CA"],
    )  # fmt: skip
    manager = IoTHubRegistryManager.from_token_credential(names["HUB_HOST"], credential)
    return manager.send_c2d_message  # type: ignore[no-any-return]


def command_line(token: str) -> Callable[..., Any]:
    host = os.environ["HUB_HOST"]
    user = f"service@sas.root.{host.partition('.')[0]}"
    target = f"amqps://{quote(user, safe='')}:{quote(token, safe='')}@{host}/messages/devicebound"
    client = uamqp.SendClient(target)
    atexit.register(client.close)  # else it may crash as the interpreter ends

    def send(device: str, body: str, properties: dict[str, Any]) -> None:
        given = uamqp.message.MessageProperties(message_id=properties.pop("messageId", None))
        given.to = f"/devices/{device}/messages/devicebound"
        client.queue_message(uamqp.Message(body, properties=given, application_properties=properties))
        for state in client.send_all_messages(close_on_done=False):
            if state is uamqp.constants.MessageState.SendFailed:
                raise errors.MessageException("refused")

    return send


def main() -> None:
    if sys.argv[1] == "credential":
        send = with_credential()
    else:
        send = command_line(sys.argv[2]) if sys.argv[1] == "cli" else registry_manager(sys.argv[1])
    for line in sys.stdin:
        wanted = json.loads(line)
        try:
            send(wanted["device"], wanted["body"], wanted["properties"])
        except Exception as error:  # the client raises a bare one
            print(f"{type(error).__name__}: {error}", flush=True)
        else:
            print("sent", flush=True)


if __name__ == "__main__":
    main()
