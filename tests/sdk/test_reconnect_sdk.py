"""Connections of the real clients, made to fail by faults that they ask for, or because the hub ends: they recover by
themselves, and then telemetry, messages to them, twins and methods go on, and nothing that was acknowledged is lost."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventData, EventHubConsumerClient, PartitionContext
from azure.iot.device import IoTHubDeviceClient, Message, MethodRequest, MethodResponse

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import hub_process

pytestmark = [pytest.mark.sdk, pytest.mark.waits]

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
PATIENCE = 90.0
PREFIX = "AzIoTHub_FaultOperation"


def fault(operation: str, reason: str = "boom", delay: str = "0", duration: str = "2") -> dict[str, str]:
    """The properties of a message that asks for it, as the SDKs' own tests write them."""
    said = {"Type": operation, "CloseReason": reason, "DelayInSecs": delay, "DurationInSecs": duration}
    return {PREFIX + name: value for name, value in said.items()}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with hub_process(tmp_path_factory.mktemp("faulty"), loopback(), "--fault-injection", "on") as hub:
        yield hub


class Process:
    """A process of tests/node that talks in JSON lines."""

    def __init__(self, hub: HubProcess, *command: str, **names: str) -> None:
        facts = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
        self._process = subprocess.Popen(
            ["node", *command], cwd=NODE_HOME, env={**os.environ, **facts, **names}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.heard: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def say(self, **what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def hear(self, wanted: Callable[[dict[str, Any]], bool], patience: float = PATIENCE) -> dict[str, Any]:
        """The next line that is ``wanted``; those before it are passed over. ``queue.Empty``: it does not come."""
        end = time.monotonic() + patience
        while True:
            line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            assert line, f"the process has ended after {self.heard[-5:]}"
            self.heard.append(json.loads(line))
            if wanted(self.heard[-1]):
                return self.heard[-1]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """It stands still meanwhile."""
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class Scene:
    """A device and a service; ``prove`` has them do everything once."""

    def __init__(self, hub: HubProcess, name: str, device: Process, service: Process | None = None) -> None:
        self.hub, self.name, self.device, self.service = hub, name, device, service
        self.sent: set[str] = set()

    def send(self, body: str, properties: dict[str, str] | None = None) -> None:
        """Telemetry, until it is acknowledged."""
        self.device.say(send=body, properties=properties or {})
        answer = self.device.hear(lambda line: body in (line.get("sent"), line.get("failed")))
        assert answer == {"sent": body}, self.device.heard[-5:]
        self.sent.add(body)

    def change(self, tag: str, tries: int = 1) -> None:
        """Change what is desired, until the device hears of it: while it still attaches its links it may not."""
        for number in range(1, tries + 1):
            desired = {"wanted": tag, "try": number}
            status, answer = self.hub.request("PATCH", f"/twins/{self.name}", {"properties": {"desired": desired}})
            assert status == 200, answer
            last = number == tries
            with contextlib.nullcontext() if last else contextlib.suppress(queue.Empty):
                self.device.hear(lambda line: line.get("desired", {}).get("wanted") == tag, PATIENCE if last else 2)
                return

    def prove(self, tag: str, tries: int = 1) -> None:
        for number in range(3):
            self.send(f"{tag}-{number}")
        assert self.service is not None
        self.service.say(device=self.name, body=f"to-{tag}", messageId=f"to-{tag}")
        self.device.hear(lambda line: line.get("command") == f"to-{tag}")
        self.change(tag, tries)
        self.device.say(report={"done": tag})
        self.device.hear(lambda line: line.get("reported") == {"done": tag})
        _, twin = self.hub.request("GET", f"/twins/{self.name}")
        assert twin["properties"]["reported"]["done"] == tag
        call = {
            "methodName": "echo", "payload": {"tag": tag}, "connectTimeoutInSeconds": 30,
            "responseTimeoutInSeconds": 30,
        }  # fmt: skip
        status, answer = self.hub.request("POST", f"/twins/{self.name}/methods", call)
        assert (status, answer) == (200, {"status": 200, "payload": {"tag": tag}})

    def struck(self) -> int:
        """How many connections of the device ended, or began and ended, by a fault."""
        _, told = self.hub.request("GET", f"/$muster/why?device={self.name}&count=100")
        return sum(refusal["cause"] == "fault" for refusal in told["refusals"])


def arrived(hub: HubProcess, device: str, wanted: set[str]) -> set[str]:
    """The bodies of the device's messages, once all that are ``wanted`` are there."""
    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"], "$Default", connection_verify=hub.facts["HUB_CA_FILE"]
    )
    seen: set[str] = set()

    def took(_: PartitionContext, event: EventData | None) -> None:
        if event is not None and event.system_properties[b"iothub-connection-device-id"] == device.encode():
            seen.add(event.body_as_str())
            if wanted <= seen:
                client.close()

    stop = threading.Timer(PATIENCE, client.close)
    stop.start()
    client.receive(took, starting_position="-1")
    stop.cancel()
    return seen


def require_443(hub: HubProcess, *transports: str) -> None:
    if not {"mqtt", "amqp"}.issuperset(transports) and hub.port("https") != 443:
        pytest.skip("port 443 may not be bound here, and the client knows no other")


CUTS = [("KillTcp", "boom"), ("KillTcp", "byebye"), ("KillTcp", " severs the TCP connection ")]
REFUSALS = [("InvokeThrottling", "boom"), ("InvokeMaxMessageQuota", "boom"), ("InvokeAuthError", "boom")]
LINKS = ("D2CLink", "C2DLink", "TwinLinkReq", "TwinLinkResp", "MethodReqLink", "MethodRespLink")
AMQP = [
    *CUTS, ("KillAmqpConnection", "boom"), ("ShutDownAmqp", "byebye"), ("KillAmqpSession", "boom"),
    ("KillAmqpCBSLinkReq", "boom"), ("KillAmqpCBSLinkResp", "boom"), *((f"KillAmqp{link}", "boom") for link in LINKS),
]  # fmt: skip
FAULTS = {
    "mqtt": [*CUTS, ("ShutDownMqtt", "byebye"), *REFUSALS],
    "mqtt-ws": [*CUTS, ("ShutDownMqtt", "byebye"), *REFUSALS],
    "amqp": AMQP,
    "amqp-ws": AMQP,
}

DEVICES = pytest.mark.parametrize("transports", [("mqtt", "amqp"), ("mqtt-ws", "amqp-ws")], ids=["tcp", "ws"])
"""Two at once, as most of the time clients wait before they connect again."""


@DEVICES
def test_node_devices_recover_from_every_fault(faulty: HubProcess, transports: Sequence[str]) -> None:
    require_443(faulty, *transports)
    with ThreadPoolExecutor() as pool:
        for recovered in [pool.submit(recover, faulty, transport) for transport in transports]:
            recovered.result()


def recover(faulty: HubProcess, transport: str) -> None:
    """Have a device ask for each fault, and do everything after it."""
    name = f"reconnect-{transport}"
    connection = faulty.device_connection_string(name, faulty.add_device(name))
    with (
        Process(faulty, "c2d_service.js", "amqp") as service,
        Process(faulty, "reconnect.js", transport, CONNECTION=connection) as device,
    ):
        service.hear(lambda line: line.get("open") is True)
        device.hear(lambda line: line.get("open") is True)
        scene = Scene(faulty, name, device, service)
        scene.prove("before")
        for number, (operation, reason) in enumerate(FAULTS[transport]):
            before = scene.struck()
            scene.send(f"fault-{number}", fault(operation, reason))
            scene.prove(f"after-{number}")
            assert scene.struck() > before or operation == "InvokeThrottling", f"{operation} {reason} has not struck"
        told = [line for line in device.heard if "error" in line or "failed" in line]
        assert told == [], "a `disconnect` event is all that the application may hear of it"
    assert scene.sent <= arrived(faulty, name, scene.sent)


def test_a_node_device_that_lost_a_link_to_cbs_still_renews_its_token(faulty: HubProcess) -> None:
    """Its tokens live for seconds: what is sent after that goes by another one."""
    seconds, name = 12, "renewed"
    connection = faulty.device_connection_string(name, faulty.add_device(name))
    with Process(faulty, "reconnect.js", "amqp", CONNECTION=connection, TOKEN_SECONDS=str(seconds)) as device:
        device.hear(lambda line: line.get("open") is True)
        scene = Scene(faulty, name, device)
        for link in ("Req", "Resp"):
            scene.send(f"fault-{link}", fault(f"KillAmqpCBSLink{link}"))
            scene.send(f"after-{link}")
            time.sleep(seconds + 1)
            scene.send(f"renewed-{link}")
        assert scene.struck() == 2
        assert [line for line in device.heard if "error" in line or "failed" in line] == []


@pytest.mark.parametrize("transport", ["amqp", "amqp-ws"])
def test_a_node_device_on_amqp_is_told_of_refusals_and_goes_on(faulty: HubProcess, transport: str) -> None:
    """Throttled it waits and sends again by itself; the others it leaves to its application."""
    require_443(faulty, transport)
    name = f"refused-{transport}"
    connection = faulty.device_connection_string(name, faulty.add_device(name))
    told = {"InvokeMaxMessageQuota": "IotHubQuotaExceededError", "InvokeAuthError": "UnauthorizedError"}
    with (
        Process(faulty, "c2d_service.js", "amqp") as service,
        Process(faulty, "reconnect.js", transport, CONNECTION=connection) as device,
    ):
        service.hear(lambda line: line.get("open") is True)
        device.hear(lambda line: line.get("open") is True)
        scene = Scene(faulty, name, device, service)
        scene.send("fault-throttling", fault("InvokeThrottling"))
        scene.prove("throttled")
        for operation, error in told.items():
            scene.send(operation, fault(operation, duration="5"))
            answers = []
            while not answers or "failed" in answers[-1]:
                device.say(send=f"after-{operation}")
                answers.append(device.hear(lambda line: "sent" in line or "failed" in line))
            assert {answer.get("name") for answer in answers} == {error, None}
            scene.prove(operation)
    assert scene.sent <= arrived(faulty, name, scene.sent)


ENDS = pytest.mark.parametrize("end", [HubProcess.stop, HubProcess.kill])


@contextlib.contextmanager
def connected(hub: HubProcess, transports: Sequence[str], **names: str) -> Iterator[list[Scene]]:
    """A device for each, named as its transport, that has been told that it has subscribed."""
    with contextlib.ExitStack() as stack:
        scenes = []
        for transport in transports:
            connection = hub.device_connection_string(transport, hub.add_device(transport))
            device = stack.enter_context(Process(hub, "reconnect.js", transport, CONNECTION=connection, **names))
            scenes.append(Scene(hub, transport, device))
        for scene in scenes:
            scene.device.hear(lambda line: line.get("open") is True)
            scene.change("before", tries=30)
        yield scenes


@ENDS
@DEVICES
def test_node_devices_come_back_when_the_hub_is_started_again(
    make_hub: Callable[..., HubProcess], transports: Sequence[str], end: Callable[[HubProcess], Any]
) -> None:
    """On MQTT they never subscribe again; on AMQP they miss what changes while they attach, and do not look."""
    hub = make_hub().start()
    require_443(hub, *transports)
    with connected(hub, transports) as scenes:
        end(hub)
        hub.start()
        with Process(hub, "c2d_service.js", "amqp") as service:
            service.hear(lambda line: line.get("open") is True)
            for scene in scenes:
                scene.service = service
                scene.prove("after", tries=1 if scene.name.startswith("mqtt") else 30)
        for scene in scenes:
            assert [line for line in scene.device.heard if "error" in line] == []
            assert scene.sent <= arrived(hub, scene.name, scene.sent)


@DEVICES
def test_node_devices_that_read_their_twin_on_connect_learn_what_changed_meanwhile(
    make_hub: Callable[..., HubProcess], transports: Sequence[str]
) -> None:
    hub = make_hub().start()
    require_443(hub, *transports)
    with connected(hub, transports, READ_AGAIN="1") as scenes:
        with contextlib.ExitStack() as away:
            for scene in scenes:
                away.enter_context(scene.device.held())
            hub.kill()
            hub.start()
            desired = {"wanted": "while it was away"}
            for name in transports:
                assert hub.request("PATCH", f"/twins/{name}", {"properties": {"desired": desired}})[0] == 200
        for scene in scenes:
            scene.device.hear(lambda line: line.get("desired", {}).get("wanted") == "while it was away")


@ENDS
@pytest.mark.parametrize("websockets", [False, True])
def test_a_python_device_comes_back_when_the_hub_is_started_again(
    make_hub: Callable[..., HubProcess], websockets: bool, end: Callable[[HubProcess], Any]
) -> None:
    hub = make_hub().start()
    require_443(hub, "mqtt-ws" if websockets else "mqtt")
    client = IoTHubDeviceClient.create_from_connection_string(
        hub.device_connection_string("d", hub.add_device("d")), websockets=websockets,
        server_verification_cert=Path(hub.facts["HUB_CA_FILE"]).read_text(), connection_retry_interval=1,
    )  # fmt: skip
    changes: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def answer(call: MethodRequest) -> None:
        client.send_method_response(MethodResponse.create_from_method_request(call, 200, call.payload))

    came = threading.Event()

    def changed() -> None:
        if client.connected:
            came.set()

    client.on_connection_state_change = changed
    client.on_twin_desired_properties_patch_received = changes.put
    client.on_method_request_received = answer
    try:
        assert came.wait(PATIENCE), "the first handler connects it"
        came.clear()
        end(hub)
        hub.start()
        assert came.wait(PATIENCE)
        status, _ = hub.request("PATCH", "/twins/d", {"properties": {"desired": {"wanted": 1}}})
        assert status == 200
        assert changes.get(timeout=PATIENCE) == {"wanted": 1, "$version": 2}
        call = {"methodName": "echo", "payload": [1], "connectTimeoutInSeconds": 30}
        assert hub.request("POST", "/twins/d/methods", call) == (200, {"status": 200, "payload": [1]})
    finally:
        client.shutdown()


@pytest.mark.parametrize("websockets", [False, True])
def test_a_python_device_recovers(faulty: HubProcess, websockets: bool) -> None:
    """In the cloud this client would send the message for ever that asked for the fault: it is never acknowledged."""
    require_443(faulty, "mqtt-ws" if websockets else "mqtt")
    name = f"reconnect-python-{websockets}"
    client = IoTHubDeviceClient.create_from_connection_string(
        faulty.device_connection_string(name, faulty.add_device(name)), websockets=websockets,
        server_verification_cert=Path(faulty.facts["HUB_CA_FILE"]).read_text(), connection_retry_interval=1,
    )  # fmt: skip
    went, came = threading.Event(), threading.Event()

    def changed() -> None:
        (came if client.connected else went).set()

    client.on_connection_state_change = changed
    client.connect()
    assert came.wait(PATIENCE), "told a little later than connect returns"
    bodies = set()
    try:
        for number, (operation, reason) in enumerate([*CUTS, ("ShutDownMqtt", "byebye")]):
            for event in (went, came):
                event.clear()
            asking = Message(f"fault-{number}")
            asking.custom_properties.update(fault(operation, reason, "1"))
            client.send_message(asking)
            assert went.wait(PATIENCE)
            assert came.wait(PATIENCE)
            client.send_message(f"after-{number}")
            bodies |= {f"fault-{number}", f"after-{number}"}
    finally:
        client.shutdown()
    assert bodies <= arrived(faulty, name, bodies)


def test_a_node_device_on_https_is_told_and_may_go_on(faulty: HubProcess) -> None:
    require_443(faulty, "http")
    connection = faulty.device_connection_string("reconnect-http", faulty.add_device("reconnect-http"))
    names = {
        "KillTcp": "Error", "InvokeThrottling": "Error", "InvokeMaxMessageQuota": "IotHubQuotaExceededError",
        "InvokeAuthError": "UnauthorizedError",
    }  # fmt: skip
    with Process(faulty, "reconnect.js", "http", CONNECTION=connection) as device:
        device.hear(lambda line: line.get("open") is True)
        for operation, name in names.items():
            device.say(send=operation, properties=fault(operation))
            assert device.hear(lambda line: "sent" in line or "failed" in line) == {"sent": operation}
            device.say(send="refused")
            assert device.hear(lambda line: "failed" in line) == {"failed": "refused", "name": name}
            answer: dict[str, Any] = {}
            while "sent" not in answer:
                device.say(send=f"after-{operation}")
                answer = device.hear(lambda line: "sent" in line or "failed" in line)
    wanted = {*names, *(f"after-{operation}" for operation in names)}
    assert wanted <= arrived(faulty, "reconnect-http", wanted)
