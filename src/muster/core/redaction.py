"""Secrets kept out of sentences that repeat what somebody wrote."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]|%2[bBfF]){20,}+(?:=|%3[dD]){1,2}"
    r"|(?:SharedAccessKey|sig)\s*(?:=|%3[dD])[^\s;&'\"]+",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """``text``, a sentence of ours that repeats what a caller wrote, without what may be a key or a signature in it."""
    return _SECRET.sub("(hidden, it may hold a key)", text)
