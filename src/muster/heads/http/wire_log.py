"""What aiohttp logs of its own accord, toned down: anybody who can connect can send what is no HTTP."""

from __future__ import annotations

import logging
import sys
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError


class WireLog(logging.LoggerAdapter[logging.Logger]):
    """A logger for ``aiohttp.web.AppRunner(app, logger=...)``: malformed requests and broken connections in one
    line, without a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("muster.http.wire"), {})

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        if isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError):
            # What comes behind the colon is what was sent; it may be a token.
            told = error.message.partition(":")[0] if isinstance(error, HttpProcessingError) else str(error)
            first, *_ = told.strip().splitlines() or [type(error).__name__]
            self.info(f"{msg}: %s", *args, first)
        else:
            self.error(msg, *args, exc_info=exc_info, **kwargs)
