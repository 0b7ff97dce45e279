"""Limits of file upload and of the embedded blob endpoint; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

_BLOB = "Azure Storage, Put Blob"
UPLOADS_ACTIVE = Limit(
    "active file uploads of a device", 10, 1000, "uploads", "docs iot-hub-devguide-quotas-throttling",
    "Begun and neither reported nor lapsed; the cloud's ten are soon gone when devices restart in their midst.",
)  # fmt: skip
BLOB_NAME_CHARACTERS = Limit(
    "name of an uploaded file", 1024, 1024, "characters", "Azure Storage, Naming and Referencing Containers and Blobs",
    "The device's id and the slash before the name included.",
)  # fmt: skip
BLOB_BODY_BYTES = Limit(
    "body of Put Blob or Put Block", 5_242_880_000, 5_242_880_000, "bytes", _BLOB, "Larger files are put in blocks."
)
BLOB_BLOCKS = Limit(
    "blocks of a file", 50_000, 50_000, "blocks", "Azure Storage, Put Block",
    "Committed ones, and as many that wait to be; each is a file on the hub's disk.",
)  # fmt: skip
BLOB_BODIES = Limit(
    "files received at once", 256, 256, "requests", "own choice",
    "Each holds up to 512 KiB; more are answered ServerBusy, and clients try again.",
)  # fmt: skip
BLOB_BODIES_EACH = Limit(
    "files received at once from one device", 64, 64, "requests", "own choice",
    "SDKs send up to 20 blocks of a file at a time; one device that is slow must not keep the others out.",
)  # fmt: skip
BLOB_METADATA_BYTES = Limit(
    "metadata and content headers of a file", 8192, 8192, "bytes", _BLOB,
    "x-ms-meta-* and x-ms-blob-content-*, names and values together.",
)  # fmt: skip

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
