"""Tokens that a shared access policy's key has signed for one device, put with calls of services."""

from __future__ import annotations

import pytest
from test_authenticator import HOST, Bench, assert_refused, service

from muster.core.errors import UNAUTHORIZED
from muster.core.limits import Profile


@pytest.mark.parametrize("resource", ["devices/dev1", "devices/dev1/modules", "devices/dev1/commands"])
def test_a_policys_token_for_one_device_is_good_for_what_begins_so_in_both_profiles(resource: str) -> None:
    token = service(f"{HOST}%2Fdevices%2Fdev1")
    for profile in Profile:
        assert Bench(profile=profile).service(token, resource=resource).allowed


@pytest.mark.parametrize("resource", ["twins/dev1", "twins/dev1/methods", "twins/DEV1/modules/m", "digitaltwins/dev1"])
def test_in_the_open_profile_it_is_good_for_all_calls_about_its_device(resource: str) -> None:
    token = service(f"{HOST}%2Fdevices%2Fdev1")
    assert Bench().service(token, resource=resource).allowed
    bench = Bench(profile=Profile.AZURE)
    assert_refused(bench, bench.service(token, resource=resource), "policy-token-for-device", UNAUTHORIZED)


def test_a_token_for_a_module_is_good_for_the_modules_twin_alone() -> None:
    token = service(f"{HOST}%2Fdevices%2Fdev1%2Fmodules%2Fm")
    assert Bench().service(token, resource="twins/dev1/modules/m").allowed
    assert not Bench().service(token, resource="twins/dev1/modules/n").allowed
    assert not Bench().service(token, resource="twins/dev1").allowed


@pytest.mark.parametrize(
    ("scope", "resource"),
    [
        ("devices/dev2", "twins/dev1"),
        ("devices/dev1", "twins"),
        ("devices/dev1", "devices"),
        ("devices/dev1", "jobs/dev1"),
        ("devices/query", "devices/query"),
        ("devices/keys", "devices/keys/regenerate"),
    ],
)
def test_it_is_good_for_nothing_else(scope: str, resource: str) -> None:
    """Neither where an operation on all devices is called as a device might be."""
    bench = Bench()
    token = service(f"{HOST}/{scope}".replace("/", "%2F"))
    assert_refused(bench, bench.service(token, resource=resource), "scope-too-narrow", UNAUTHORIZED)
