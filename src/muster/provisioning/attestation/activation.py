"""Keys for one TPM only: a key is wrapped so that nothing but that chip can take it in (provisioning.md 6.3).

The credential binds the inner key of the wrapping to the endorsement key and to the name of the storage root key (TPM
2.0 library, part 1, "Credential Protection"); the key itself is a duplicate for the storage root key (same, "Protected
Storage Hierarchy"). The chip undoes it with ActivateCredential and Import, and signs with HMAC.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from muster.core.provisioning_limits import TPM_KEY_BYTES

_RSA, _SHA256, _KEYED_HASH, _HMAC = b"\x00\x01", b"\x00\x0b", b"\x00\x08", b"\x00\x05"
_STORAGE_KEY = bytes.fromhex("00060080004300100800")
"""AES of 128 bits in CFB mode for what it protects, no scheme, RSA of 2048 bits: what all SDKs make."""
_NEEDED = 0x0003_0032
"""fixedTPM, fixedParent, sensitiveDataOrigin, restricted, decrypt: the key was made in the chip and never leaves it."""
_SIGNING_ATTRIBUTES = 0x0004_0040
"""sign, userWithAuth."""
_MODULUS, _EXPONENT = 256, 65_537
_BLOCK = 16


class TpmKeyError(ValueError):
    """Not the public part of a storage key; the text says why, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class TpmKey:
    """The public part of an endorsement key or a storage root key; ``area`` is its TPMT_PUBLIC."""

    area: bytes
    public: rsa.RSAPublicKey

    @property
    def name(self) -> bytes:
        """What the chip calls it."""
        return _SHA256 + sha256(self.area).digest()


def read_key(blob: bytes) -> TpmKey:
    """Read a TPM2B_PUBLIC, its size in front. Raises ``TpmKeyError``."""
    area = blob[2:]
    if not 2 < len(blob) <= TPM_KEY_BYTES.open or int.from_bytes(blob[:2]) != len(area):
        raise TpmKeyError("it is not a TPM2B_PUBLIC with its size in front")
    if area[:2] != _RSA or area[2:4] != _SHA256:
        raise TpmKeyError("it is not an RSA key with SHA-256 for its name")
    if int.from_bytes(area[4:8]) & _NEEDED != _NEEDED:
        raise TpmKeyError("it is not a storage key that was made in a TPM and stays there")
    policy_ends = 10 + int.from_bytes(area[8:10])
    rest = area[policy_ends:]
    if not rest.startswith(_STORAGE_KEY) or len(rest) != len(_STORAGE_KEY) + 4 + 2 + _MODULUS:
        raise TpmKeyError("it is not RSA of 2048 bits with AES-128-CFB")
    exponent, size = int.from_bytes(rest[10:14]) or _EXPONENT, int.from_bytes(rest[14:16])
    modulus = int.from_bytes(rest[16:])
    if size != _MODULUS or modulus.bit_length() != 8 * _MODULUS:
        raise TpmKeyError("its modulus has not 2048 bits")
    if exponent != _EXPONENT or not modulus & 1:
        raise TpmKeyError("its exponent is not 65537, or its modulus is even")
    return TpmKey(area, rsa.RSAPublicNumbers(exponent, modulus).public_key())


def wrap(secret: bytes, endorsement: TpmKey, storage: TpmKey, random_bytes: Callable[[int], bytes]) -> bytes:
    """``secret`` as a key to sign with (HMAC-SHA256) for the TPM of these two keys, as clients take it apart.

    The parts, each with its size: TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET, TPM2B_PRIVATE, TPM2B_ENCRYPTED_SECRET,
    TPM2B_PUBLIC, and an empty TPM2B_DATA that clients read and pass over.
    """
    inner, seed_value = random_bytes(_BLOCK), random_bytes(32)
    unique = sha256(seed_value + secret).digest()
    attributes = _SIGNING_ATTRIBUTES.to_bytes(4)
    area = _KEYED_HASH + _SHA256 + attributes + _sized(b"") + _HMAC + _SHA256 + _sized(unique)
    name = _SHA256 + sha256(area).digest()
    sensitive = _sized(_KEYED_HASH + _sized(b"") + _sized(seed_value) + _sized(secret))
    duplicate = _encrypted(inner, _sized(sha256(sensitive + name).digest()) + sensitive)

    credential_seed, duplicate_seed = random_bytes(32), random_bytes(32)
    credential = _protected(credential_seed, storage.name, _sized(inner))
    private = _protected(duplicate_seed, name, duplicate)
    parts = (
        credential,
        _for_key(endorsement, credential_seed, b"IDENTITY\0"),
        private,
        _for_key(storage, duplicate_seed, b"DUPLICATE\0"),
        area,
        b"",
    )
    return b"".join(_sized(part) for part in parts)


def _protected(seed: bytes, name: bytes, content: bytes) -> bytes:
    """``content`` encrypted, behind a proof that it belongs to the object ``name``."""
    hidden = _encrypted(_derived(seed, b"STORAGE", name, 128), content)
    proof = hmac.digest(_derived(seed, b"INTEGRITY", b"", 256), hidden + name, "sha256")
    return _sized(proof) + hidden


def _for_key(key: TpmKey, seed: bytes, label: bytes) -> bytes:
    scheme = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=label)
    return key.public.encrypt(seed, scheme)


def _derived(seed: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa: SP 800-108 in counter mode with HMAC-SHA256, of which one block is enough."""
    return hmac.digest(seed, b"\0\0\0\1" + label + b"\0" + context + bits.to_bytes(4), "sha256")[: bits // 8]


def _encrypted(key: bytes, content: bytes) -> bytes:
    """AES in CFB mode from zero on: each key is used once."""
    encryptor = Cipher(AES(key), CFB(bytes(_BLOCK))).encryptor()
    return encryptor.update(content) + encryptor.finalize()


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(2) + content
