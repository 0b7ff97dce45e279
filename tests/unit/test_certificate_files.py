"""What is taken as a hub's own certificate, and what is said of all else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from muster.node.certificate_files import CertificateFileError, CertificateFiles, Supplied, load
from tests.certificate_maker import Maker, Pair, address, kept_key, with_sha1

NOW = 1_800_000_000.0
HOST = "hub.example.com"


class Desk:
    """Files, and certificates to put into them."""

    def __init__(self, directory: Path) -> None:
        self.files = CertificateFiles(directory / "hub.pem", directory / "hub.key")
        self.make = Maker(NOW)
        self.root = self.make.root("Root")
        self.middle = self.make.intermediate("Middle", self.root)

    def server(self, issuer: Pair | None, *names: str, **options: object) -> Pair:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names or (HOST,)])
        return self.make.issue("hub", issuer, extensions=[(alternatives, False)], **options)  # type: ignore[arg-type]

    def put(self, key: Pair, *chain: Pair) -> None:
        self.files.certificate.write_bytes(b"# a comment\n".join(one.pem for one in chain))
        self.files.key.write_bytes(key.key_pem)

    def load(self, *names: str, roots: Sequence[Pair] = ()) -> Supplied:
        return load(self.files, names or (HOST,), NOW, lambda: b"".join(one.pem for one in roots))

    def refused(self, *names: str) -> str:
        with pytest.raises(CertificateFileError) as caught:
            self.load(*names)
        secret = self.files.key.read_text() if self.files.key.exists() else ""
        assert len(secret) < 80 or secret[30:80] not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- taken


def test_a_root_in_the_file_is_told_and_not_sent(desk: Desk) -> None:
    leaf = desk.server(desk.middle)
    desk.put(leaf, leaf, desk.middle, desk.root)
    made = desk.load()
    assert [one.der for one in made.chain] == [leaf.der, desk.middle.der]
    assert (made.anchor.der, made.rooted) == (desk.root.der, True)


def test_a_root_of_the_system_is_found(desk: Desk) -> None:
    leaf = desk.server(desk.middle)
    desk.put(leaf, leaf, desk.middle)
    made = desk.load(roots=[desk.make.root("Root"), desk.root])
    assert (made.anchor.der, made.rooted) == (desk.root.der, True)


def test_without_a_root_the_last_issuer_stands_in(desk: Desk) -> None:
    leaf = desk.server(desk.middle)
    desk.put(leaf, leaf, desk.middle)
    made = desk.load(roots=[desk.make.root("Root")])
    assert (made.anchor.der, made.rooted) == (desk.middle.der, False)


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519"])
def test_one_signed_by_itself_is_its_own_root(desk: Desk, kind: str) -> None:
    leaf = desk.server(None, key=kept_key(kind))
    desk.put(leaf, leaf)
    made = desk.load()
    assert [one.der for one in made.chain] == [made.anchor.der] == [leaf.der]
    assert made.rooted


@pytest.mark.parametrize(
    ("held", "asked", "covered"),
    [
        ("hub.example.com", "HUB.example.com", True),
        ("HUB.example.com", "hub.example.com", True),
        ("*.example.com", "hub.example.com", True),
        ("*.example.com", "a.hub.example.com", False),
        ("*.example.com", "example.com", False),
        ("*.com", "example.com", True),
        ("example.com", "hub.example.com", False),
    ],
)
def test_names_are_compared_as_clients_do(desk: Desk, held: str, asked: str, covered: bool) -> None:
    leaf = desk.server(None, held)
    desk.put(leaf, leaf)
    assert desk.load(held).covers(asked) is covered


def test_addresses_are_names_too(desk: Desk) -> None:
    leaf = desk.make.issue("hub", None, extensions=[address("127.0.0.1")])
    desk.put(leaf, leaf)
    assert desk.load("127.0.0.1").covers("127.0.0.1")
    assert not desk.load("127.0.0.1").covers("127.0.0.2")
    leaf = desk.server(None, "127.0.0.1")
    desk.put(leaf, leaf)
    assert "is not for 127.0.0.1" in desk.refused("127.0.0.1")


# --- not taken


def test_files_that_are_not_there_or_hold_something_else(desk: Desk) -> None:
    assert "cannot be read: No such file" in desk.refused()
    leaf = desk.server(None)
    desk.files.certificate.write_bytes(leaf.der)
    assert "holds no certificate in PEM" in desk.refused()
    desk.files.certificate.write_bytes(leaf.pem)
    assert "key file" in desk.refused()
    desk.files.key.write_bytes(b"nothing")
    assert "no private key in PEM" in desk.refused()
    secret = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    desk.files.key.write_bytes(secret)
    assert "encrypted" in desk.refused()
    desk.files.key.write_bytes(leaf.key_pem)
    desk.files.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "certificate 1" in desk.refused()
    desk.files.certificate.write_bytes(b" " * 1_000_001)
    assert "another file" in desk.refused()


def test_a_key_of_another_certificate(desk: Desk) -> None:
    desk.put(desk.server(None), desk.server(None))
    assert "is not that of the certificate" in desk.refused()


def test_the_wrong_order(desk: Desk) -> None:
    leaf = desk.server(desk.middle)
    desk.put(leaf, desk.middle, leaf)
    assert "is number 2; put it first" in desk.refused()
    desk.put(leaf, leaf, desk.root, desk.middle)
    assert "wrong order, or one is missing" in desk.refused()
    desk.put(leaf, leaf, desk.make.intermediate("Middle", desk.root))
    assert "not signed with the key" in desk.refused()
    desk.put(leaf, leaf, desk.make.issue("Middle", desk.root, authority=False))
    assert "no authority" in desk.refused()


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (lambda desk: desk.server(None, days=(-9, -1)), "has expired at"),
        (lambda desk: desk.server(None, days=(1, 9)), "is not valid before"),
        (lambda desk: desk.server(None, key=kept_key("rsa1024")), "too weak"),
        (lambda desk: desk.server(None, key=kept_key("p224")), "too weak"),
        (lambda desk: desk.server(None, usage=["key_encipherment"]), "may not sign"),
        (lambda desk: desk.server(None, purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]), "not for servers"),
        (lambda desk: desk.make.issue(HOST, None), "no name at all"),
        (lambda desk: desk.server(None, "other.example.com"), "it is for other.example.com"),
    ],
)
def test_certificates_that_clients_would_refuse(desk: Desk, recipe: Callable[[Desk], Pair], told: str) -> None:
    leaf = recipe(desk)
    desk.put(leaf, leaf)
    assert told in desk.refused()


def test_an_issuer_that_clients_would_refuse(desk: Desk) -> None:
    old = desk.make.intermediate("Old", desk.root, days=(-9, -1))
    leaf = desk.server(old)
    desk.put(leaf, leaf, old)
    assert "CN=Old has expired" in desk.refused()
    signer = desk.make.root("RSA", key=kept_key("rsa2048"))
    broken = with_sha1(desk.server(signer), signer.key)
    desk.put(broken, broken, signer)
    assert "signed with SHA1" in desk.refused()


def test_every_name_must_be_covered(desk: Desk) -> None:
    leaf = desk.server(None, HOST, "alias.example.com")
    desk.put(leaf, leaf)
    assert desk.load(HOST, "alias.example.com")
    assert "is not for dps.example.com, localhost" in desk.refused(HOST, "dps.example.com", "localhost")
