"""SAS tokens: what is read, what is refused by which name, what a signature covers; junk only raises SasError."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muster.identity import sas
from muster.identity.causes import BY_NAME
from muster.identity.examination import read_credential
from muster.identity.mistakes import shown
from muster.identity.sas import KeyReading, Resource, SasError

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(32, 64))).decode()
ZEROS = "A" * 43 + "%3D"


def signed(sr: str, se: str, key: str = KEY) -> str:
    """The percent-encoded signature, made independently of the code under test."""
    digest = hmac.new(base64.b64decode(key), f"{sr}\n{se}".encode(), hashlib.sha256).digest()
    return quote(base64.b64encode(digest), safe="")


def token(sr: str, se: str = "1800003600", key: str = KEY, form: str = "sr={sr}&sig={sig}&se={se}") -> str:
    return "SharedAccessSignature " + form.format(sr=sr, sig=signed(sr, se, key), se=se)


@pytest.mark.parametrize(
    ("sr", "form"),
    [
        ("localhost%2Fdevices%2Fdev1", "sr={sr}&sig={sig}&se={se}"),  # Python
        ("localhost%2fdevices%2fdev1", "sr={sr}&sig={sig}&skn=&se={se}"),  # Node, lower-case hex
        ("localhost%2Fdevices%2Fdev%252B1", "sr={sr}&sig={sig}&se={se}"),  # C#: ids encoded twice
        ("localhost/devices/dev%2B1", "sig={sig}&se={se}&sr={sr}"),  # Java: slashes literal, signature first
        ("localhost/devices/dev1", "sr={sr}&sig={sig}&se={se}&skn="),  # C: raw, empty skn
        ("sb%3A%2F%2Flocalhost%2Fmyhub", "SR={sr}&Sig={sig}&SE={se}&SKN=service"),  # names in any case
    ],
)
def test_the_signature_is_checked_over_the_raw_text_of_every_client(sr: str, form: str) -> None:
    parsed = sas.parse(token(sr, form=form))
    assert (parsed.resource, parsed.expiry_text, parsed.expiry) == (sr, "1800003600", 1_800_003_600.0)
    assert parsed.policy == ("service" if "SKN" in form else None)
    assert sas.matching_key(parsed, OTHER, KEY) == ("secondary", KeyReading.DECODED)
    assert sas.matching_key(parsed, KEY, OTHER) == ("primary", KeyReading.DECODED)
    assert sas.matching_key(parsed, OTHER, None) is None


def test_a_fractional_expiry_is_signed_as_it_stands() -> None:
    parsed = sas.parse(token("localhost", "1800003600.25"))
    assert parsed.expiry == 1_800_003_600.25
    assert sas.matching_key(parsed, KEY, None) is not None


def test_the_policy_name_is_decoded() -> None:
    assert sas.parse(token("localhost") + "&skn=my%20policy").policy == "my policy"


def test_a_key_read_as_text_counts_only_where_it_is_asked_for() -> None:
    as_text = base64.b64encode(KEY.encode()).decode()
    parsed = sas.parse(token("sb%3A%2F%2Flocalhost%2Fmyhub", key=as_text))
    assert sas.matching_key(parsed, KEY, None) is None
    assert sas.matching_key(parsed, KEY, None, text_key=True) == ("primary", KeyReading.TEXT)
    decoded = sas.parse(token("sb%3A%2F%2Flocalhost%2Fmyhub"))
    assert sas.matching_key(decoded, KEY, None, text_key=True) == ("primary", KeyReading.DECODED)


@pytest.mark.parametrize("change", ["sr", "se", "sig", "key"])
def test_any_change_breaks_the_signature(change: str) -> None:
    text = token("localhost%2Fdevices%2Fdev1")
    if change == "sr":
        text = text.replace("dev1", "dev2")
    elif change == "se":
        text = text.replace("1800003600", "1800003601")
    elif change == "sig":
        text = token("localhost%2Fdevices%2Fdev1", key=OTHER)
    assert sas.matching_key(sas.parse(text), OTHER if change == "key" else KEY, None) is None


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "token-malformed"),
        ("Bearer eyJ0eXAi", "token-malformed"),
        ("SharedAccessSignature", "token-malformed"),
        ("SharedAccessSignature ", "token-malformed"),
        (f"SharedAccessSignature sr=a\tb&sig={ZEROS}&se=1", "token-malformed"),
        (f"SharedAccessSignature sr=a\x7f&sig={ZEROS}&se=1", "token-malformed"),
        (f"sharedaccesssignature sr=a&sig={ZEROS}&se=1", "token-malformed"),
        (f"SharedAccessSignature  sr=a&sig={ZEROS}&se=1", "token-malformed"),
        (f"SharedAccessSignature sr=a&sig={ZEROS}&se=1 ", "token-malformed"),
        (f"SharedAccessSignature sr=é&sig={ZEROS}&se=1", "token-malformed"),
        (f"SharedAccessSignature sig={ZEROS}&se=1", "token-field-missing"),
        (f"SharedAccessSignature sr=&sig={ZEROS}&se=1", "token-field-missing"),
        ("SharedAccessSignature sr=a&se=1", "token-field-missing"),
        (f"SharedAccessSignature sr=a&sig={ZEROS}", "token-field-missing"),
        (f"SharedAccessSignature sr=a&SR=b&sig={ZEROS}&se=1", "token-field-twice"),
        (f"SharedAccessSignature sr=a&sig={ZEROS}&se=2030-01-01T00:00:00Z", "expiry-not-seconds"),
        (f"SharedAccessSignature sr=a&sig={ZEROS}&se=-1", "expiry-not-seconds"),
        (f"SharedAccessSignature sr=a&sig={ZEROS}&se=1e9", "expiry-not-seconds"),
        (f"SharedAccessSignature sr=a&sig={ZEROS}&se=nan", "expiry-not-seconds"),
        (f"SharedAccessSignature sr=a&sig={ZEROS}&se={'1' * 16}", "expiry-not-seconds"),
        ("SharedAccessSignature sr=a&sig=!!!&se=1", "signature-not-base64"),
        ("SharedAccessSignature sr=a&sig=AAAA&se=1", "signature-length"),
        (f"SharedAccessSignature sr=a&sig={'0f' * 32}&se=1", "signature-in-hex"),
        (f"SharedAccessSignature sr=a&sig={'A' * 43}%253D&se=1", "signature-encoded-twice"),
        (f"SharedAccessSignature sr={'a' * 4096}&sig={ZEROS}&se=1", "token-too-long"),
    ],
)
def test_what_is_no_token_is_refused_by_name(text: str, cause: str) -> None:
    with pytest.raises(SasError) as refusal:
        sas.parse(text)
    assert refusal.value.cause == cause
    assert cause in BY_NAME


@pytest.mark.parametrize(
    ("sr", "host", "path"),
    [
        ("localhost", "localhost", ()),
        ("LocalHost:8443", "localhost", ()),
        ("localhost%3A8443%2Fdevices%2FDev1", "localhost", ("devices", "dev1")),
        ("localhost./devices/dev1/", "localhost", ("devices", "dev1")),
        ("sb%3A%2F%2Flocalhost%3A5671%2Fmyhub%2FConsumerGroups", "localhost", ("myhub", "consumergroups")),
        ("%5B%3A%3A1%5D%3A8443%2Fdevices", "::1", ("devices",)),
        ("::1/devices", "::1", ("devices",)),
        ("localhost%2fdevices%2fa%2525b", "localhost", ("devices", "a%b")),  # ids encoded twice
        ("localhost%2Fdevices%2Fa%25b", "localhost", ("devices", "a%b")),  # once
        ("localhost/devices/a%41", "localhost", ("devices", "a%41")),  # raw
        ("localhost%2Fdevices%2Fd%2Fapi-version%3D2016-11-14", "localhost", ("devices", "d")),
    ],
)
def test_the_resource_is_read_in_every_spelling(sr: str, host: str, path: tuple[str, ...]) -> None:
    assert Resource(host, path) in sas.readings(sr)


@pytest.mark.parametrize(
    ("held", "wanted", "covers"),
    [
        ("h", "h/devices/d", True),
        ("h/devices", "h/devices/d", True),
        ("h/devices/d", "h/devices/d/modules/m", True),
        ("h/devices/d", "h/devices/d", True),
        ("h/devices/d", "h/devices/dd", False),
        ("h/devices/dd", "h/devices/d", False),
        ("h/devices/d/modules/m", "h/devices/d", False),
    ],
)
def test_a_scope_covers_whole_segments_only(held: str, wanted: str, covers: bool) -> None:
    assert sas.readings(held)[0].covers(sas.readings(wanted)[0].path) is covers


def test_a_token_made_here_is_what_the_python_sdk_makes() -> None:
    made = sas.make("localhost/devices/d 1", 1_800_003_600, base64.b64decode(KEY), "my policy")
    sr = "localhost%2Fdevices%2Fd%201"
    assert made == f"SharedAccessSignature sr={sr}&sig={signed(sr, '1800003600')}&se=1800003600&skn=my%20policy"


@pytest.mark.parametrize("text", [KEY, "", "SharedAccessSignature sr=x", token("localhost")])
def test_no_secret_shows(text: str) -> None:
    credential = read_credential(text)
    for secret in (KEY, signed("localhost", "1800003600"), unquote(signed("localhost", "1800003600"))):
        assert secret not in repr(credential)


@pytest.mark.parametrize(
    "text", [KEY, quote(KEY), f"HostName=x;SharedAccessKey={KEY}", token("localhost"), f"x/{KEY}/y"]
)
def test_text_that_may_hold_a_key_is_not_shown(text: str) -> None:
    assert shown(text) == "(hidden, it may hold a key)"


def test_shown_text_is_short_and_printable() -> None:
    assert shown("localhost/devices/dev1") == "localhost/devices/dev1"
    assert shown("a\x1b[31m\nb") == "a?[31m?b"
    assert len(shown("a" * 5000)) < 200


# --- anything at all

FIELD = st.tuples(
    st.sampled_from(["sr", "sig", "se", "skn", "SR", "x", ""]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
    | st.sampled_from([ZEROS, "1", "%", "%zz"]),
)
TOKENISH = st.lists(FIELD, max_size=6).map(
    lambda fields: "SharedAccessSignature " + "&".join(f"{name}={value}" for name, value in fields)
)


@given(st.text(max_size=6000) | TOKENISH)
@example("SharedAccessSignature " + "&" * 4000)
@example("\ud800")
def test_anything_is_a_token_or_a_named_mistake(text: str) -> None:
    credential = read_credential(text)
    if credential.token is None:
        found = credential.absent or credential.malformed
        assert found is not None
        assert found[0] in BY_NAME
    else:
        assert sas.matching_key(credential.token, KEY, OTHER, text_key=True) is None
        assert sas.readings(credential.token.resource)


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="&"), min_size=1, max_size=200),
    st.integers(0, 10**12),
    st.binary(min_size=1, max_size=64),
    st.none() | st.text(min_size=1, max_size=20),
)
def test_what_is_made_is_read_back(resource: str, expiry: int, key: bytes, policy: str | None) -> None:
    parsed = sas.parse(sas.make(resource, expiry, key, policy))
    assert sas.signed_by(parsed, key)
    assert not sas.signed_by(parsed, key + b"x")
    assert (unquote(parsed.resource), parsed.expiry, parsed.policy) == (resource, expiry, policy)


@given(st.text(max_size=3000))
def test_any_resource_has_a_reading_and_any_text_can_be_shown(text: str) -> None:
    assert 1 <= len(sas.readings(text)) <= 3
    assert len(shown(text)) < 200
