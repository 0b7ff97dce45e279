"""Fixtures that every kind of test may use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import EngineKind, clustered, hub_process, start_servers, use
from tests.nats_servers import nats as nats  # noqa: PLC0414  a fixture for all
from tests.servers import end_all

# Machines are shared and noisy: how long an example takes says nothing about the code.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engines", type=EngineKind, choices=list(EngineKind), default=EngineKind.EMBEDDED,
        help="what hubs of tests are started on: engines within, PostgreSQL and NATS, or two workers",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    use(EngineKind(config.getoption("--engines")))


def pytest_unconfigure() -> None:
    """xdist's workers end without ``atexit``."""
    end_all()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker of xdist begins with those that wait, while the others work; at the end all would wait."""
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if clustered() and (marker := item.get_closest_marker("embedded")):
        pytest.skip(*marker.args)
    start_servers()


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the event loop that the hub runs on, SDKs on the one that they come with."""
    if "sdk" in item.path.parts:
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def make_hub(tmp_path: Path) -> Iterator[Callable[..., HubProcess]]:
    """Makes hubs of the test's own, not yet started: ``make_hub("--partitions", "2")``; killed at the end."""
    made: list[HubProcess] = []

    def make(*options: str, ephemeral: bool = False, prefix: Sequence[str] = ()) -> HubProcess:
        directory = tmp_path / f"hub{len(made)}"
        directory.mkdir()
        made.append(hub_process(directory, loopback(), *options, ephemeral=ephemeral, prefix=prefix))
        return made[-1]

    yield make
    for hub in made:
        hub.kill()


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One hub for all tests of a worker that do not mind each other: use device ids of your own."""
    with hub_process(
        tmp_path_factory.mktemp("hub"), loopback(), "--consumer-group", "second", "--log-level", "info"
    ) as hub:
        yield hub


@pytest.fixture
def https_443(hub: HubProcess) -> HubProcess:
    """``hub`` where clients with a fixed port 443 can reach it; skips where 443 may not be bound."""
    if hub.port("https") != 443:
        pytest.skip("port 443 may not be bound here: sysctl net.ipv4.ip_unprivileged_port_start=443, or be root")
    return hub
