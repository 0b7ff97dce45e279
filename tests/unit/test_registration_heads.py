"""What devices of the provisioning service write in user names and topics, and how long they may be silent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import HubError
from muster.core.limit import Limit
from muster.dialect.registration_addresses import (
    is_registration,
    plain_registration,
    registration_request,
    registration_user_name,
    response_topic,
)
from muster.heads import mqtt_provisioning
from muster.heads.mqtt_provisioning import ProvisioningConnection
from muster.testing.clock import VirtualAmbient
from muster.wire.mqtt import encoder
from muster.wire.mqtt.decoder import Decoder
from muster.wire.mqtt.packets import Connect

SCOPE = "0ne00000001"


@pytest.mark.parametrize(
    ("user", "said"),
    [
        (f"{SCOPE}/registrations/dev/api-version=2019-03-31&ClientVersion=a%2Fb", (SCOPE, "dev", "2019-03-31")),
        (f"{SCOPE}/registrations/dev/ClientVersion=1.15.0&api-version=2021-06-01", (SCOPE, "dev", "2021-06-01")),
        (f"{SCOPE}/registrations/dev/?api-version=2025-07-01-preview", (SCOPE, "dev", "2025-07-01-preview")),
        (f"{SCOPE}/registrations/a%3Ab/api-version=2019-03-31&ClientVersion=2019-03-31", (SCOPE, "a:b", "2019-03-31")),
    ],
)
def test_user_names_as_the_sdks_write_them(user: str, said: tuple[str, str, str]) -> None:
    assert is_registration(user)
    assert registration_user_name(user) == said


@pytest.mark.parametrize("user", ["", "hub/dev/?api-version=2021-04-12", "hub/dev", "registrations/dev", "hub"])
def test_other_user_names_are_the_hubs(user: str) -> None:
    assert not is_registration(user)
    assert plain_registration(user) is None


@pytest.mark.parametrize("user", [f"{SCOPE}/registrations/dev", f"/{SCOPE}/Registrations/dev"])
def test_the_user_name_of_sasl(user: str) -> None:
    assert plain_registration(user) == (SCOPE, "dev")


@given(st.text())
def test_whatever_is_said_is_read_or_refused(text: str) -> None:
    for read in (registration_user_name, lambda said: registration_request(said.encode("utf-8", "replace"))):
        for given_text in (text, f"{SCOPE}/registrations/{text}", f"$dps/registrations/PUT/iotdps-register/?{text}"):
            with suppress(HubError):
                assert read(given_text) is not None


def test_requests_and_answers_as_they_stand_in_topics() -> None:
    poll = b"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=7&operationId=5.ab.cd"
    assert registration_request(poll) == ("7", "5.ab.cd")
    assert registration_request(b"$dps/registrations/PUT/iotdps-register/?$rid=7") == ("7", None)
    assert response_topic(202, "7", 3) == "$dps/registrations/res/202/?$rid=7&retry-after=3"
    assert response_topic(200, "7", 0) == "$dps/registrations/res/200/?$rid=7"


class FakeTransport:
    def __init__(self) -> None:
        self.written = b""
        self.closed = asyncio.Event()

    def set_protocol(self, _: Any) -> None: ...

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.closed.set()


class FakeRequests:
    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.refusals = self

    def add(self, verdict: Any) -> None:
        self.kept.append(verdict)

    @property
    def ambient(self) -> Any:
        return VirtualAmbient()


async def test_pings_alone_do_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = Limit("silence", 0.2, 0.2, "seconds", "test", "")  # type: ignore[arg-type]
    monkeypatch.setattr(mqtt_provisioning, "REGISTRATION_SILENCE", soon)
    requests, transport = FakeRequests(), FakeTransport()
    connection = ProvisioningConnection(requests, asyncio.get_running_loop())  # type: ignore[arg-type]
    user = f"{SCOPE}/registrations/dev/api-version=2019-03-31"
    connection.take_over(transport, Decoder(65_536), Connect("dev", True, 60, user, None, None, "MQTT", 4), [])
    while not transport.closed.is_set():
        connection.data_received(b"\xc0\x00")
        await asyncio.sleep(0.01)
    assert transport.written.startswith(encoder.connack(False, 0) + encoder.PINGRESP)
    (verdict,) = requests.kept
    assert (verdict.cause, verdict.principal) == ("registration-silence", "dev")
    connection.connection_lost(None)
