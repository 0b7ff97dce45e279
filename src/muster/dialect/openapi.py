"""The description of the REST surface in OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0), made from its operations.

What every operation has in common is written here, bodies that have a fixed shape in ``openapi_schemas``; the rest is
taken from the operations themselves, so that none can be left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from muster.dialect.api_version import OLDEST
from muster.dialect.openapi_schemas import ANSWERS, BODIES, SCHEMAS

_PARAMETER = re.compile(r"{(\w+)(\.\.\.)?}")
_MOST_ID = 128
_API_VERSION = {
    "name": "api-version", "in": "query", "required": True, "example": "2021-04-12",
    "description": f"A date, {OLDEST} or later.",
    "schema": {"type": "string", "pattern": "^20(1[7-9]|2[0-9])-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$"},
}  # fmt: skip
_TOKENS = {
    "token": {
        "type": "apiKey", "in": "header", "name": "Authorization",
        "description": "SharedAccessSignature sr=..&sig=..&se=..&skn=.. of a shared access policy or a device, or "
        "Bearer with a token of an OpenID Connect issuer that the hub knows.",
    }
}  # fmt: skip
_JSON = "application/json"


class Described(NamedTuple):
    """An operation: ``path`` as the operation table has it, ``about`` its docstring; ``open_to_all``: no token."""

    method: str
    path: str
    about: str
    open_to_all: bool


def describe(operations: Iterable[Described], version: str) -> dict[str, Any]:
    """The whole document. ``version`` is the program's."""
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        path = _PARAMETER.sub(r"{\1}", one.path)
        paths.setdefault(path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Muster",
            "version": version,
            "summary": "A device hub and device provisioning service, as Azure IoT Hub and DPS have them",
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": SCHEMAS, "securitySchemes": _TOKENS},
    }


def _operation(one: Described) -> dict[str, Any]:
    parameters = [_parameter(name, whole=not rest) for name, rest in _PARAMETER.findall(one.path)]
    told: dict[str, Any] = {
        "summary": _sentence(one.about),
        "operationId": _name(one),
        "tags": [_tag(one.path)],
        "responses": {
            **ANSWERS.get((one.method, one.path), {"2XX": {"description": "Done."}}),
            "default": {"description": "Refused or failed: the body names the error and how to mend it."},
        },
    }
    if not one.open_to_all:
        parameters.append(_API_VERSION)
        told["security"] = [{"token": []}]
    if parameters:
        told["parameters"] = parameters
    body = BODIES.get((one.method, one.path))
    if body is not None:
        told["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    return told


def _parameter(name: str, *, whole: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    if whole:
        schema["maxLength"] = _MOST_ID
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _sentence(about: str) -> str:
    """The first line of a docstring without its marks, and without what is for Python's callers."""
    return about.partition("\n")[0].partition(" Raises ")[0].replace("``", "").rstrip(".")


def _name(one: Described) -> str:
    words = re.findall(r"[A-Za-z0-9]+", _PARAMETER.sub(r"by_\1", one.path))
    return "_".join([one.method.lower(), *words])


def _tag(path: str) -> str:
    first, *more = path.strip("/").split("/")
    if first == "$muster":
        return "muster"
    return "registrations" if first.startswith("{") else more[-1] if "Microsoft.Devices" in path and not more else first
