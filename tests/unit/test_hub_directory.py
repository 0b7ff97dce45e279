"""Which hub a client means by the names that it uses."""

from __future__ import annotations

import pytest

from muster.heads.hubs import HubDirectory
from muster.identity.sas import resource_hosts


def two() -> HubDirectory[str]:
    hubs = HubDirectory("A", "a", ["a.example", "localhost", "127.0.0.1"])
    hubs.add("B", "b", ["b.example", "localhost", "127.0.0.9", "fe80::1"])
    return hubs


@pytest.mark.parametrize(
    ("hosts", "entity", "hub"),
    [
        (["b.example"], "", "B"),
        (["B.Example:8883"], "", "B"),
        (["[fe80::1]:443"], "", "B"),
        (["127.0.0.9"], "", "B"),
        (["a.example", "b.example"], "", "A"),
        (["localhost", "b.example"], "", "B"),
        (["unknown.example", "127.0.0.1:443", "", "b.example."], "", "B"),
        (["localhost"], "", "A"),
        (["unknown.example"], "", "A"),
        ([], "", "A"),
        (["localhost"], "B", "B"),
        (["a.example"], "b", "A"),
        (["localhost"], "messages", "A"),
    ],
)
def test_the_nearest_name_of_one_hub_alone_decides(hosts: list[str], entity: str, hub: str) -> None:
    assert two().find(*hosts, entity=entity) == hub


def test_a_hub_that_is_gone_is_no_longer_meant() -> None:
    hubs = two()
    assert not hubs.alone
    hubs.remove("b")
    assert hubs.find("b.example", entity="b") == "A"
    assert not hubs.knows("b.example")
    assert hubs.alone


def test_names_that_are_known() -> None:
    hubs = two()
    assert all(map(hubs.knows, ["a.example", "B.EXAMPLE:443", "::1", "hub.localhost"]))
    assert not hubs.knows("c.example")


@pytest.mark.parametrize(
    ("token", "hosts"),
    [
        ("SharedAccessSignature sr=b.example%2Fdevices%2Fd&sig=x&se=1", ("b.example",)),
        ("SharedAccessSignature sig=x&se=1&sr=sb%3A%2F%2FB.example%3A5671%2Fb", ("b.example",)),
        ("SharedAccessSignature sig=x&SR=b.example", ("b.example",)),
        ("SharedAccessSignature sig=x", ()),
        ("", ()),
        ("Basic sr=", ()),
    ],
)
def test_the_hosts_of_a_token_that_nobody_has_checked(token: str, hosts: tuple[str, ...]) -> None:
    assert resource_hosts(token) == hosts


def test_only_so_much_of_a_text_is_looked_through() -> None:
    assert resource_hosts(f"{'x' * 100_000}&sr=b.example") == ()
