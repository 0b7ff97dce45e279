"""The certificate zoo: every kind of client certificate that comes to a hub, with the named cause of its refusal.

Each specimen is a recipe: which authorities the hub has, how the identity is registered, what the client sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from muster.identity.authority_contract import RevocationRules
from muster.identity.model import Authentication, AuthenticationType, IdentityKey
from tests.certificate_maker import (
    ANY,
    CLIENT,
    SERVER,
    Maker,
    Pair,
    address,
    kept_key,
    only_network,
)

DEVICE, NO_RULES = IdentityKey("dev"), RevocationRules()
BY_AUTHORITY = Authentication(AuthenticationType.CERTIFICATE_AUTHORITY)


@dataclass(frozen=True)
class Registered:
    """An authority of the hub."""

    pair: Pair
    verified: bool = True
    rules: RevocationRules = NO_RULES
    lists: Sequence[bytes] = ()


@dataclass(frozen=True)
class Specimen:
    """What one client sends and how the hub knows it. ``others`` are further identities, by id."""

    leaf: Pair | None
    sent: Sequence[Pair] = ()
    authorities: Sequence[Registered] = ()
    authentication: Authentication = BY_AUTHORITY
    key: IdentityKey = DEVICE
    others: dict[str, Authentication] = field(default_factory=dict)
    registered: bool = True
    enabled: bool = True
    with_token: bool = False


Recipe = Callable[[Maker], Specimen]
ZOO: dict[str, tuple[str, Recipe]] = {}
"""Name to the cause (empty: let in) and the recipe."""


def specimen(cause: str = "") -> Callable[[Recipe], Recipe]:
    def add(recipe: Recipe) -> Recipe:
        ZOO[recipe.__name__] = cause, recipe
        return recipe

    return add


def held(primary: str = "", secondary: str = "") -> Authentication:
    return Authentication(
        AuthenticationType.SELF_SIGNED, primary_thumbprint=primary or None, secondary_thumbprint=secondary or None
    )


def alone(leaf: Pair, **more: object) -> Specimen:
    return replace(Specimen(leaf, authentication=held(leaf.sha256)), **more)  # type: ignore[arg-type]


def under(root: Pair, leaf: Pair, *sent: Pair, **more: object) -> Specimen:
    return replace(Specimen(leaf, sent, [Registered(root)]), **more)  # type: ignore[arg-type]


# --- thumbprints


@specimen()
def thumbprint_sha1(make: Maker) -> Specimen:
    leaf = make.issue("anything", None)
    return alone(leaf, authentication=held(leaf.sha1))


@specimen()
def thumbprint_sha256(make: Maker) -> Specimen:
    return alone(make.issue("dev", None))


@specimen()
def thumbprint_secondary_while_rolling_over(make: Maker) -> Specimen:
    leaf = make.issue("dev", None)
    return alone(leaf, authentication=held("00" * 32, leaf.sha1))


@specimen()
def thumbprint_of_an_openssl_default_that_says_it_is_an_authority(make: Maker) -> Specimen:
    return alone(make.issue("dev", None, authority=True, usage=("digital_signature", "key_cert_sign")))


@specimen()
def thumbprint_of_a_certificate_that_somebody_issued(make: Maker) -> Specimen:
    return alone(make.issue("x", make.root(), kind="rsa2048"), key=IdentityKey("dev", "mod"))


@specimen("thumbprint-unknown")
def thumbprint_of_nobody(make: Maker) -> Specimen:
    return alone(make.issue("dev", None), authentication=held("AB" * 20, "CD" * 32))


@specimen("thumbprint-of-other-device")
def thumbprint_of_another(make: Maker) -> Specimen:
    leaf = make.issue("dev", None)
    return alone(leaf, authentication=held("AB" * 20), others={"neighbour": held(leaf.sha256)})


@specimen("thumbprint-is-secondary-of-other-device")
def thumbprint_secondary_of_another(make: Maker) -> Specimen:
    leaf = make.issue("dev", None)
    return alone(leaf, authentication=held("AB" * 20), others={"neighbour": held("EF" * 32, leaf.sha1)})


@specimen("thumbprint-of-issuer")
def thumbprint_of_the_issuer(make: Maker) -> Specimen:
    root = make.root()
    return alone(make.issue("dev", root), sent=[root], authentication=held(root.sha1))


@specimen("certificate-expired")
def thumbprint_expired(make: Maker) -> Specimen:
    return alone(make.issue("dev", None, days=(-30, -1)))


@specimen("certificate-not-yet-valid")
def thumbprint_not_yet_valid(make: Maker) -> Specimen:
    return alone(make.issue("dev", None, days=(1, 30)))


@specimen("key-too-weak")
def thumbprint_weak_key(make: Maker) -> Specimen:
    return alone(make.issue("dev", None, key=kept_key("rsa1024")))


@specimen("key-usage")
def thumbprint_may_not_sign(make: Maker) -> Specimen:
    return alone(make.issue("dev", None, usage=("key_agreement",)))


# --- good chains


@specimen()
def leaf_by_root(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, usage=("digital_signature",), purposes=[CLIENT], authority=False))


@specimen()
def leaf_with_nothing_but_a_name(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, plain=True))


@specimen()
def leaf_and_intermediate(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root)
    return under(root, make.issue("dev", middle), middle)


@specimen()
def whole_chain_with_root(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root)
    return under(root, make.issue("dev", middle), middle, root)


@specimen()
def wrong_order(make: Maker) -> Specimen:
    root = make.root()
    upper = make.intermediate("Upper", root)
    lower = make.intermediate("Lower", upper)
    return under(root, make.issue("dev", lower), root, upper, lower)


@specimen()
def strangers_among_them(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root)
    return under(root, make.issue("dev", middle), make.root("Stranger"), middle, make.issue("Else", None))


@specimen()
def intermediate_registered(make: Maker) -> Specimen:
    middle = make.intermediate("Middle", make.root())
    return under(middle, make.issue("dev", middle))


@specimen()
def unverified_intermediate_below_a_verified_root(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root)
    return under(root, make.issue("dev", middle), authorities=[Registered(middle, verified=False), Registered(root)])


@specimen()
def module_by_root(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev/mod", root), key=IdentityKey("dev", "mod"))


@specimen()
def rsa_2048(make: Maker) -> Specimen:
    root = make.root(key=kept_key("rsa2048"))
    return under(root, make.issue("dev", root, key=kept_key("rsa2048", 1)))


@specimen()
def p384(make: Maker) -> Specimen:
    root = make.root(kind="p384")
    return under(root, make.issue("dev", root, kind="p384"))


@specimen()
def p521(make: Maker) -> Specimen:
    root = make.root(kind="p521")
    return under(root, make.issue("dev", root, kind="p521"))


@specimen()
def ed25519(make: Maker) -> Specimen:
    root = make.root(kind="ed25519")
    return under(root, make.issue("dev", root, kind="ed25519"))


@specimen()
def cross_signed(make: Maker) -> Specimen:
    old, new = make.root("Old"), make.root("New")
    key = kept_key("p256", 7)
    middles = [make.intermediate("Middle", root, key=key) for root in (old, new)]
    return under(new, make.issue("dev", middles[0]), *middles, old)


@specimen()
def root_rolled_over_under_the_same_name(make: Maker) -> Specimen:
    old, new = make.root("Root"), make.root("Root")
    return under(new, make.issue("dev", new), authorities=[Registered(old), Registered(new)])


@specimen()
def authority_that_is_a_device_itself(make: Maker) -> Specimen:
    own = make.root("dev", usage=("digital_signature", "key_cert_sign", "crl_sign"))
    return under(own, own, authorities=[Registered(own, lists=[make.revoked(own)])])


@specimen()
def any_purpose(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, purposes=[SERVER, ANY]))


@specimen()
def ended_within_the_skew(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, days=(-30, -200 / 86400)))


@specimen()
def begins_within_the_skew(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, days=(200 / 86400, 30)))


@specimen()
def path_length_just_enough(make: Maker) -> Specimen:
    root = make.root(path_length=1)
    middle = make.intermediate("Middle", root, path_length=0)
    return under(root, make.issue("dev", middle), middle)


@specimen()
def names_within_the_constraints(make: Maker) -> Specimen:
    root = make.root(extensions=[only_network("10.0.0.0/8")])
    return under(root, make.issue("dev", root, extensions=[address("10.1.2.3")]))


@specimen()
def not_on_the_list(make: Maker) -> Specimen:
    root = make.root()
    rules = RevocationRules(fail_closed=True)
    gone = make.issue("gone", root)
    return under(
        root, make.issue("dev", root), authorities=[Registered(root, rules=rules, lists=[make.revoked(root, gone)])]
    )


@specimen()
def list_overdue_and_failing_open(make: Maker) -> Specimen:
    root = make.root()
    lists = [make.revoked(root, days=(-30, -2))]
    return under(root, make.issue("dev", root), authorities=[Registered(root, lists=lists)])
