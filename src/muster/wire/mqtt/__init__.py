"""MQTT 3.1.1, the server's side: ``Decoder`` for what clients send, ``encoder`` for what they are answered."""

from muster.wire.mqtt.decoder import Decoder
from muster.wire.mqtt.packets import MqttError, Packet

__all__ = ["Decoder", "MqttError", "Packet"]
