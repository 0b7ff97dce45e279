"""Muster: a self-hosted device hub, wire-compatible with Azure IoT Hub and its Device Provisioning Service."""

__version__ = "0.1.0"
