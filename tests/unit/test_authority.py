"""The built-in authority, judged by openssl and by the library that did not make it."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from muster.core.errors import HubError
from muster.issuing.authority import (
    SERVER_DAYS,
    Credentials,
    issue_server_certificate,
    make_authority,
    still_serves,
)
from muster.testing.clock import VirtualAmbient

DAY = 86400.0
NAMES = ("myhub.example", "10.1.2.3", "LOCALHOST")


@pytest.fixture
def ambient() -> VirtualAmbient:
    return VirtualAmbient()


@pytest.fixture
def authority(ambient: VirtualAmbient) -> Credentials:
    return make_authority(ambient)


def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)


def verify(tmp_path: Path, authority: Credentials, server: Credentials, at: float, *more: str) -> str:
    """What ``openssl verify`` says, as a strict TLS client would ask."""
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "server.pem").write_bytes(server.certificate)
    done = openssl(
        "verify", "-x509_strict", "-purpose", "sslserver", "-attime", str(int(at)), "-CAfile",
        str(tmp_path / "ca.pem"), *more, str(tmp_path / "server.pem"),
    )  # fmt: skip
    return (done.stdout + done.stderr).strip()


@pytest.mark.parametrize(
    "wanted",
    [("-verify_hostname", name) for name in ("myhub.example", "localhost", "hub.localhost")]
    + [("-verify_ip", address) for address in ("10.1.2.3", "127.0.0.1", "::1")],
)
def test_openssl_accepts_the_server_for_each_name(
    tmp_path: Path, ambient: VirtualAmbient, authority: Credentials, wanted: tuple[str, str]
) -> None:
    server = issue_server_certificate(authority, NAMES, ambient)
    assert verify(tmp_path, authority, server, ambient.now(), *wanted).endswith(": OK")


def test_openssl_refuses_another_name_an_expired_one_and_another_authority(
    tmp_path: Path, ambient: VirtualAmbient, authority: Credentials
) -> None:
    server = issue_server_certificate(authority, NAMES, ambient)
    now = ambient.now()
    assert "hostname mismatch" in verify(tmp_path, authority, server, now, "-verify_hostname", "other.example")
    assert "expired" in verify(tmp_path, authority, server, now + (SERVER_DAYS + 1) * DAY)
    assert "unable to get local issuer" in verify(tmp_path, make_authority(ambient), server, now)


def test_a_server_certificate_is_no_authority(tmp_path: Path, ambient: VirtualAmbient, authority: Credentials) -> None:
    server = issue_server_certificate(authority, NAMES, ambient)
    below = issue_server_certificate(server, NAMES, ambient)
    assert ": OK" not in verify(tmp_path, server, below, ambient.now())


def test_the_extensions_that_clients_look_for(ambient: VirtualAmbient, authority: Credentials) -> None:
    ca = x509.load_pem_x509_certificate(authority.certificate)
    server = x509.load_pem_x509_certificate(issue_server_certificate(authority, NAMES, ambient).certificate)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["myhub.example", "localhost", "hub.localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(address) for address in ("10.1.2.3", "127.0.0.1", "::1")
    ]
    assert ExtendedKeyUsageOID.SERVER_AUTH in server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    issuer = server.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def test_the_server_certificate_stays_until_names_change_or_half_its_life_is_over(
    ambient: VirtualAmbient, authority: Credentials
) -> None:
    server = issue_server_certificate(authority, NAMES, ambient)
    assert still_serves(server, authority, NAMES, ambient)
    assert still_serves(server, authority, ("10.1.2.3", "MyHub.example:8443"), ambient), "order, case, port: the same"
    assert not still_serves(server, authority, (*NAMES, "second.example"), ambient)
    assert not still_serves(server, authority, ("myhub.example",), ambient)
    assert not still_serves(server, make_authority(ambient), NAMES, ambient)
    ambient.advance(SERVER_DAYS / 2 * DAY + DAY)
    assert not still_serves(server, authority, NAMES, ambient)


@pytest.mark.parametrize("name", ["a b", "héllo", "-x", "x..y", "*", "", "a" * 64, "x/../y", "localhost\n"])
def test_a_name_that_cannot_stand_in_a_certificate_is_refused_by_name(
    ambient: VirtualAmbient, authority: Credentials, name: str
) -> None:
    with pytest.raises(HubError, match="hostname"):
        issue_server_certificate(authority, [name], ambient)


def test_authorities_differ_by_name_and_keys_never_show(ambient: VirtualAmbient, authority: Credentials) -> None:
    other = make_authority(ambient)
    names = {x509.load_pem_x509_certificate(one.certificate).subject for one in (authority, other)}
    assert len(names) == 2
    assert b"PRIVATE" in authority.key
    assert "PRIVATE" not in repr(authority)
