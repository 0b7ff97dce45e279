"""A server of revocation lists and an OCSP responder, on a socket."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.certificate_maker import Maker, Pair


class Place:
    """A server of revocation lists and a responder. ``revoked`` are serials, ``signer`` signs in the issuer's place."""

    def __init__(self) -> None:
        self.list = b""
        self.changed = time.time() - 60
        self.issuers: list[Pair] = []
        self.revoked: set[int] = set()
        self.signer: Pair | None = None
        self.make: Maker
        self.down = self.unknown = False
        self.days = (-1.0, 1.0)
        self.asked: list[int] = []
        self.validator = ""
        self.statuses: list[int] = []
        place = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content, known = place.list, None
                etag, changed = f'"{hashlib.sha256(content).hexdigest()}"', formatdate(place.changed, usegmt=True)
                if place.validator == "ETag":
                    known = self.headers["If-None-Match"] == etag
                elif place.validator == "Last-Modified":
                    known = self.headers["If-Modified-Since"] == changed
                more = {"ETag": etag, "Last-Modified": changed}.get(place.validator)
                self.answer(content, 304 if known else 200, **({place.validator: more} if more else {}))

            def do_POST(self) -> None:
                self.answer(place.respond(self.rfile.read(int(self.headers["Content-Length"]))))

            def answer(self, content: bytes, status: int = 200, **headers: str) -> None:
                place.statuses.append(503 if place.down else status)
                self.send_response(place.statuses[-1])
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content if place.statuses[-1] == 200 else b"")

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/x"

    def respond(self, request: bytes) -> bytes:
        asked = ocsp.load_der_ocsp_request(request)
        self.asked.append(asked.serial_number)
        issuer = next(
            one for one in self.issuers
            if x509.SubjectKeyIdentifier.from_public_key(one.key.public_key()).digest == asked.issuer_key_hash
        )  # fmt: skip
        signer, now = self.signer or issuer, self.make.now
        status = ocsp.OCSPCertStatus.REVOKED if asked.serial_number in self.revoked else ocsp.OCSPCertStatus.GOOD
        if self.unknown:
            status = ocsp.OCSPCertStatus.UNKNOWN
        begin, end = (now + timedelta(days=day) for day in self.days)
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            asked.issuer_name_hash, asked.issuer_key_hash, asked.serial_number, hashes.SHA1(), status, begin, end,
            begin if status is ocsp.OCSPCertStatus.REVOKED else None, None,
        ).responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)  # fmt: skip
        if self.signer is not None:
            builder = builder.certificates([self.signer.certificate])
        return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER)


@contextlib.contextmanager
def serving() -> Iterator[Place]:
    """A place that answers, in a thread of its own."""
    made = Place()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()
