"""What the doctor finds, and what it does not."""

from __future__ import annotations

import base64

import pytest

from muster.identity import doctor
from muster.identity.authority_contract import Authority, RevocationRules
from muster.identity.doctor import Finding, Level
from muster.identity.model import Authentication, AuthenticationType, Identity, IdentityKey
from muster.identity.policies import LOCAL, development_key
from muster.identity.revocation import read_list
from tests.certificate_maker import Maker, kept_key

NOW = 1_800_000_000.0
MAKE = Maker(NOW)
RULES = RevocationRules(list_url="http://lists.example/")


def authority(days: float, *, verified: bool = True, rules: RevocationRules = RULES, kind: str = "p256") -> Authority:
    root = MAKE.root(key=kept_key(kind), days=(-1, days))
    return Authority(name="ca", certificate=root.der, verified=verified, created=0, updated=0, version=1, rules=rules)


def names(findings: object) -> list[tuple[str, str]]:
    return [(finding.level.value, finding.name) for finding in findings]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("days", "level"), [(-1, "bad"), (6.5, "bad"), (20, "warning"), (59, "notice"), (61, None), (4000, None)]
)
def test_ends_are_told_at_60_30_and_7_days(days: float, level: str | None) -> None:
    found = names(doctor.authority_findings([authority(days)], {}, NOW)) if days > 0 else []
    if days > 0:
        assert found == ([] if level is None else [(level, "authority-ends")])
    ending = doctor.ending("x", "The thing", NOW + days * 86_400, NOW, "Do it.")
    assert names(ending) == ([] if level is None else [(level, "x")])


def test_what_is_wrong_with_authorities() -> None:
    found = names(doctor.authority_findings([authority(999, verified=False, rules=RevocationRules())], {}, NOW))
    assert found == [("warning", "authority-not-verified"), ("notice", "no-revocation")]
    assert names(doctor.authority_findings([authority(999, kind="rsa1024")], {}, NOW)) == [
        ("bad", "authority-key-weak")
    ]
    root = MAKE.root()
    overdue = read_list(MAKE.revoked(root, days=(-9, -1)))
    assert names(doctor.authority_findings([authority(999)], {"ca": [overdue]}, NOW)) == [("bad", "list-ends")]


def test_places_that_give_no_news_are_told() -> None:
    (found,) = doctor.news_findings({"responder of authority ca": "the answer was 503"})
    assert (found.level, found.name) == (Level.WARNING, "no-revocation-news")
    assert "responder of authority ca: the answer was 503" in found.what
    assert list(doctor.news_findings({})) == []


def identity(name: str, held: Authentication) -> Identity:
    return Identity(key=IdentityKey(name), generation_id="1", version=1, authentication=held)


def findings(*held: Authentication) -> list[Finding]:
    seen = doctor.Identities()
    for number, one in enumerate(held):
        seen.add(identity(f"d{number}", one))
    return list(seen.findings(authorities=True))


def keys(primary: str, secondary: str) -> Authentication:
    return Authentication(primary_key=primary, secondary_key=secondary)


def test_shared_and_weak_credentials() -> None:
    good = [keys(development_key(f"{number}a"), development_key(f"{number}b")) for number in range(3)]
    assert [finding.name for finding in findings(*good)] == ["on-sas"]
    shared = findings(good[0], keys(development_key("x"), good[0].primary_key or ""))
    assert (shared[0].level, shared[0].name) == (Level.BAD, "credential-shared")
    assert "d0, d1" in shared[0].what
    assert (good[0].primary_key or "") not in str(shared)
    weak = base64.b64encode(b"\0" * 32).decode(), base64.b64encode(b"short but it is 20 b").decode()
    assert "key-weak" in [finding.name for finding in findings(keys(*weak))]
    same = Authentication(AuthenticationType.SELF_SIGNED, primary_thumbprint="AB" * 20)
    assert [finding.name for finding in findings(same, same)] == ["credential-shared"]
    assert [finding.name for finding in findings(Authentication(AuthenticationType.NONE))] == ["no-credential"]
    assert findings(Authentication(AuthenticationType.CERTIFICATE_AUTHORITY)) == []


def test_certificates_of_sessions_that_end() -> None:
    day = 86_400
    ends = [("far", NOW + 90 * day), ("near", NOW + 6 * day), ("some", NOW + 40 * day), ("more", NOW + 50 * day)]
    found = list(doctor.session_findings(ends, NOW))
    assert names(found) == [("bad", "device-certificate-ends"), ("notice", "device-certificate-ends")]
    assert "more, some" in found[1].what


def test_policies_in_use() -> None:
    used = {"iothubowner": NOW, LOCAL: NOW}
    (found,) = doctor.policy_findings(used, local_auth=True)
    assert "iothubowner" in found.what
    assert "administration" in found.remedy
    assert LOCAL not in found.what
    assert not list(doctor.policy_findings({LOCAL: NOW}, local_auth=True))


def test_the_hubs_own_certificates() -> None:
    root = MAKE.root(days=(-1, 5))
    (found,) = doctor.server_findings(doctor.Shown({"hub's CA": root.der}, "Do it."), NOW)
    assert found.what.startswith("The hub's CA ends in 4 days") or found.what.startswith("The hub's CA ends in 5 days")


def test_of_many_devices_a_few_are_named() -> None:
    one = keys(development_key("a"), development_key("b"))
    shared, *_ = findings(*(one for _ in range(2000)))
    assert shared.what.startswith("d0, d1, d2, d3, d4 and 1995 more")
