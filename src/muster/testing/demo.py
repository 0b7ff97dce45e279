"""The demo device of ``muster serve --demo``: a thermometer that connects over MQTT and TLS like any other."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import ssl
from pathlib import Path

from muster.core.errors import DEVICE_NOT_FOUND, HubError
from muster.identity.changes import Draft
from muster.identity.model import IdentityKey
from muster.identity.sas import make
from muster.node.node import Node
from muster.testing.mqtt import MqttClient, publish

log = logging.getLogger("muster.demo")

DEVICE_ID = "demo-thermometer"
SECONDS_BETWEEN_MESSAGES = 2.0
RETRY_SECONDS = 5.0
TOKEN_SECONDS = 3600


async def run_demo(node: Node) -> None:
    """Register the device if need be and send until cancelled, reconnecting when the connection ends."""
    key = await _device_key(node)
    while True:
        try:
            await _send(node, key)
        except (OSError, EOFError, TimeoutError, AssertionError) as error:
            log.info("the demo device was disconnected (%s); it comes back in %.0f s", error, RETRY_SECONDS)
        await asyncio.sleep(RETRY_SECONDS)


async def _device_key(node: Node) -> bytes:
    try:
        identity = await node.registry.get(IdentityKey(DEVICE_ID))
    except HubError as error:
        if error.row is not DEVICE_NOT_FOUND:
            raise
        identity = await node.registry.create(Draft(key=IdentityKey(DEVICE_ID)))
    return base64.b64decode(identity.authentication.primary_key or "")


async def _send(node: Node, key: bytes) -> None:
    host = node.facts["HUB_HOST"]
    roots = await asyncio.to_thread(Path(node.facts["HUB_CA_FILE"]).read_text)
    client = await MqttClient.open(
        node.settings.bind[0], node.facts["ports"]["mqtt"], ssl.create_default_context(cadata=roots), server_name=host
    )
    try:
        token = make(f"{host}/devices/{DEVICE_ID}", int(node.ambient.now()) + TOKEN_SECONDS, key)
        await client.connect(
            DEVICE_ID, f"{host}/{DEVICE_ID}/?api-version=2021-04-12&DeviceClientType=muster-demo", token
        )
        bag = "%24.ct=application%2Fjson&%24.ce=utf-8&sensor=kitchen"
        for number in range(TOKEN_SECONDS // 2):
            reading = {"temperature": round(20 + 3 * math.sin(number / 15), 2), "humidity": 40 + number % 5}
            body = json.dumps(reading).encode()
            topic = f"devices/{DEVICE_ID}/messages/events/{bag}"
            await client.send(publish(topic, body, qos=1, packet_id=number % 65_535 + 1))
            await client.expect("PUBACK")
            await asyncio.sleep(SECONDS_BETWEEN_MESSAGES)
    finally:
        await client.close()
