"""What `muster why` prints of a verdict, and verdicts on clients that broke a rule of their protocol."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from muster.core.errors import DEVICE_UNAUTHORIZED, INVALID_OPERATION, HubError
from muster.dialect.mqtt import parse_username, telemetry_properties
from muster.identity.breaches import breach
from muster.identity.causes import ALL, BREACHES
from muster.identity.examination import Examination
from muster.identity.explain import explain, to_json
from muster.identity.model import IdentityKey
from muster.identity.verdict import Verdict
from muster.testing.clock import VirtualAmbient

HEADS = Path(__file__).resolve().parents[2] / "src" / "muster" / "heads"
KEY = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ=="
CONNECTION_STRING = f"HostName=localhost;DeviceId=d;SharedAccessKey={KEY}"


def broken(name: str, *, transport: str = "mqtt", seen: str = "that", principal: str = "d") -> Verdict:
    return breach(
        VirtualAmbient(), name, INVALID_OPERATION, transport=transport, peer="::1", expected="this", seen=seen,
        principal=principal,
    )  # fmt: skip


@pytest.mark.parametrize("name", [cause.name for cause in BREACHES])
def test_every_breach_has_a_headline_a_remedy_and_one_check(name: str) -> None:
    cause = next(cause for cause in BREACHES if cause.name == name)
    text = explain(to_json(broken(name)))
    first, second, *_ = text.splitlines()
    assert first == f"d was refused: {cause.headline}"
    assert second == f"What to do: {cause.remedy}"
    assert f"✗ {name}" in text
    assert text.count(cause.remedy) == 1


def test_every_rule_that_a_head_names_is_in_the_table_and_the_other_way_round() -> None:
    """The names are looked for where heads keep a breach: first arguments of the methods that do."""
    keeping = {"_breach", "keep", "breach", "lost"}
    named = {"will", "user-name", "throttle", "quota"}  # chosen between two in heads.mqtt and heads.admission
    named |= {"token-expiry", "policy-withdrawn"}  # told by grants
    for path in HEADS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in keeping:
                named |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    assert named == {cause.name for cause in BREACHES}
    assert not {cause.name for cause in BREACHES} & {cause.name for cause in ALL}


@pytest.mark.parametrize(
    ("transport", "cause", "said"),
    [
        ("mqtt", "topic", "the connection was closed (400003 InvalidOperation)"),
        ("mqtt-ws", "user-name", "MQTT CONNACK 5 (400003 InvalidOperation)"),
        ("amqp", "link-scope", "AMQP amqp:not-allowed (400003 InvalidOperation)"),
        ("https", "packet", "HTTP 400 (400003 InvalidOperation)"),
        ("tls", "tls-version", "the TLS handshake came to no end (400003 InvalidOperation)"),
        ("mqtt", "certificate-revoked", "the connection was closed (400003 InvalidOperation)"),
    ],
)
def test_the_answer_is_told_as_the_client_s_protocol_says_it(transport: str, cause: str, said: str) -> None:
    assert f"  answered  {said}\n" in explain(to_json(broken(cause, transport=transport)))


def test_whoever_gave_no_name_is_somebody() -> None:
    assert explain(to_json(broken("packet", principal=""))).startswith("Somebody was refused: ")


def test_checks_that_were_skipped_for_the_same_reason_share_a_line() -> None:
    exam = Examination()
    exam.failed("token", "token-malformed", DEVICE_UNAUTHORIZED, expected="a token", seen="none")
    exam.skipped("scope", "there is none")
    exam.skipped("expiry", "there is none")
    exam.skipped("user", "not given")
    exam.passed("host", "known", "known")
    verdict = Verdict(
        tracking_id="1", at=0, transport="https", peer="::1", principal="p", checks=tuple(exam.checks),
        cause=exam.cause, error=exam.error,
    )  # fmt: skip
    assert explain(to_json(verdict)).splitlines()[-5:] == [
        "  ✗ token           expected: a token",
        "                    seen:     none",
        "  – scope, expiry: there is none",  # noqa: RUF001 - a dash
        "  – user            not given",  # noqa: RUF001
        "  ✓ host            known",
    ]


def test_a_breach_is_short_and_shows_no_secret_however_long_the_client_s_words_are() -> None:
    verdict = broken("client-id", seen="x" * 60_000, principal="y" * 60_000)
    assert len(str(to_json(verdict))) < 2_000
    assert KEY not in str(to_json(broken("user-name", principal=CONNECTION_STRING)))


@pytest.mark.parametrize(
    "user", [CONNECTION_STRING, f"localhost/{CONNECTION_STRING}//", f"SharedAccessSignature sr=x&sig={KEY}&se=1"]
)
def test_a_secret_given_as_user_name_or_topic_does_not_show(user: str) -> None:
    with pytest.raises(HubError) as malformed:
        parse_username(user)
    with pytest.raises(HubError) as foreign:
        telemetry_properties(user.encode(), IdentityKey("d"))
    for refusal in (malformed, foreign):
        assert KEY[:12] not in str(refusal.value)
