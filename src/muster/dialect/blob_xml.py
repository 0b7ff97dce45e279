"""The XML of Azure Storage that the embedded blob endpoint reads and writes: block lists and refusals."""

from __future__ import annotations

import base64
import binascii
from xml.parsers import expat
from xml.sax.saxutils import escape

from muster.core.errors import HubError
from muster.core.storage_errors import INVALID_BLOCK_LIST, INVALID_QUERY, INVALID_XML, TOO_MANY_BLOCKS
from muster.core.upload_limits import BLOB_BLOCKS
from muster.messages.blobs import ListedBlock, Source

_SOURCES = {source.value: source for source in Source}
_ID_BYTES = 64
_ID_CHARACTERS = 88
"""Base64 of so many bytes."""


def check_block_id(text: str) -> str:
    """``text``, which must be base64 of 1 to 64 bytes. Raises ``HubError`` ``InvalidQueryParameterValue``."""
    if not _is_block_id(text):
        raise HubError(INVALID_QUERY, f"blockid is not base64 of 1 to {_ID_BYTES} bytes.")
    return text


def _is_block_id(text: str) -> bool:
    try:
        return len(text) <= _ID_CHARACTERS and 1 <= len(base64.b64decode(text, validate=True)) <= _ID_BYTES
    except (binascii.Error, ValueError):
        return False


class _ListReader:
    """Takes a block list element by element."""

    def __init__(self) -> None:
        self.entries: list[ListedBlock] = []
        self._depth = 0
        self._text: list[str] = []

    def started(self, name: str, _: object) -> None:
        wanted = {"BlockList"} if self._depth == 0 else _SOURCES
        if self._depth > 1 or name not in wanted:
            raise _wrong(f"{name[:40]} is not an element that belongs there")
        self._depth += 1
        self._text.clear()

    def text(self, data: str) -> None:
        self._text.append(data)

    def ended(self, name: str) -> None:
        self._depth -= 1
        if self._depth == 1:
            block_id = "".join(self._text).strip()
            if not _is_block_id(block_id):
                raise HubError(INVALID_BLOCK_LIST, f"Entry {len(self.entries) + 1} of the block list is no block id.")
            if len(self.entries) >= BLOB_BLOCKS.open:
                raise HubError(TOO_MANY_BLOCKS, f"A file has at most {BLOB_BLOCKS.open} blocks, use larger ones.")
            self.entries.append(ListedBlock(_SOURCES[name], block_id))

    def doctype(self, *_: object) -> None:
        raise _wrong("a document type does not belong there")


def read_block_list(body: bytes) -> list[ListedBlock]:
    """``<BlockList>`` with any of ``<Committed>``, ``<Uncommitted>`` and ``<Latest>``, in order.

    Raises ``HubError`` ``InvalidXmlDocument``, ``InvalidBlockList`` for what is no block id, and
    ``BlockCountExceedsLimit``.
    """
    reader, parser = _ListReader(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.started, reader.ended
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = reader.text, reader.doctype
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise _wrong(f"line {error.lineno}: {expat.ErrorString(error.code)}") from None
    return reader.entries


def error_xml(code: str, message: str, request_id: str, time: str) -> bytes:
    """A refusal's body; ``time`` is ISO 8601."""
    text = escape(f"{message}\nRequestId:{request_id}\nTime:{time}")
    return f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{text}</Message></Error>'.encode()


def _wrong(detail: str) -> HubError:
    return HubError(INVALID_XML, f"The block list cannot be read: {detail}.")
