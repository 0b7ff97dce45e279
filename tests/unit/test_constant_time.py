"""Credentials are compared in a time that tells nothing of them: by ``hmac.compare_digest``, and nowhere by ``==``.

The names are those that secrets have in this house. What is compared plainly all the same stands below with its reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "muster"
SECRET = re.compile(
    r"(^|_)(key|keys|sig|signature|mac|hmac|digest|password|secret|token|credential|authorization|nonce)$"
)
PLAIN = {
    ("access/issuers.py", "_take"): "an issuer's public keys",
    ("identity/revocation_news.py", "_take"): "the digest of a published list",
    ("issuing/devices.py", "make_issuing_authority"): "public keys",
    ("messages/queue.py", "settle"): "a lock's token: who shows it has proven himself, and names one of his own",
    ("node/credential_policies.py", "_read"): "public keys",
    ("provisioning/attestation/tpm.py", "check_keys"): "endorsement keys are public",
    ("stores/sqlite/query_functions.py", "of"): "the key of a row",
    ("twins/query/service.py", "_read"): "the digest of a query's text, which is no secret",
}
"""Where, in which function, and why."""
NOT_SECRET = {"key", "keys"}
"""Names of rows and members as a rule; only as ``primary_key`` and the like they are secrets."""
COMPARED = {
    "identity/sas.py": "tokens of devices and services",
    "identity/mistakes.py": "whose key signed by mistake",
    "identity/certificate_checks.py": "thumbprints",
    "provisioning/attestation/x509.py": "enrolled certificates",
    "dialect/blob_sas.py": "grants for files",
}


def last_name(node: ast.expr) -> str:
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return last_name(function)
        case _:
            return ""


def comparisons(tree: ast.Module) -> Iterator[tuple[str, ast.Compare]]:
    """Every ``==`` and ``!=`` of two things that are made while the program runs, with the function it stands in."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Compare) and _of_two(node):
                    yield function.name, node


def _of_two(node: ast.Compare) -> bool:
    equal = any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
    return equal and not any(isinstance(side, ast.Constant) for side in (node.left, *node.comparators))


def suspicious(source: str) -> Iterator[tuple[str, int, str]]:
    """Function, line and text of comparisons where a side is named as secrets are."""
    for function, node in comparisons(ast.parse(source)):
        names = [last_name(side).lower() for side in (node.left, *node.comparators)]
        if any(SECRET.search(name) and name not in NOT_SECRET for name in names):
            yield function, node.lineno, ast.unparse(node)


def test_nothing_named_as_a_secret_is_compared_plainly() -> None:
    found, used = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        for function, line, text in suspicious(path.read_text()):
            if (place, function) in PLAIN:
                used.add((place, function))
            else:
                found.append(f"{place}:{line} in {function}: {text}")
    assert used == PLAIN.keys(), f"these are gone: {PLAIN.keys() - used}"
    assert not found, "use hmac.compare_digest, or say in PLAIN why not: " + "; ".join(found)


@pytest.mark.parametrize("place", COMPARED)
def test_what_must_be_compared_in_constant_time_is(place: str) -> None:
    assert "hmac.compare_digest(" in (PACKAGE / place).read_text(), COMPARED[place]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a, b): return a.signature == b", True),
        ("def f(a, b): return a != sign(b)", False),
        ("def f(primary_key, b): return b == primary_key", True),
        ("def f(key, b): return b == key", False),
        ("def f(a): return a.token == ''", False),
    ],
)
def test_the_search_finds_what_it_is_for(source: str, *, found: bool) -> None:
    assert bool(list(suspicious(source))) is found
