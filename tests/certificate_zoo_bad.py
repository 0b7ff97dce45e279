"""The certificate zoo, second house: chains that are refused, and certificates where something else is wanted."""

from __future__ import annotations

from muster.identity.authority_contract import RevocationRules
from muster.identity.model import Authentication, AuthenticationType, IdentityKey
from tests.certificate_maker import SERVER, UNKNOWN_CRITICAL, Maker, address, altered, kept_key, only_network, with_sha1
from tests.certificate_zoo import Registered, Specimen, alone, specimen, under

# --- bad chains


@specimen("certificate-expired")
def expired(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, days=(-30, -1)))


@specimen("certificate-not-yet-valid")
def not_yet_valid(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, days=(1, 30)))


@specimen("certificate-expired")
def intermediate_expired(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root, days=(-30, -1))
    return under(root, make.issue("dev", middle), middle)


@specimen("certificate-expired")
def root_expired(make: Maker) -> Specimen:
    root = make.root(days=(-30, -1))
    return under(root, make.issue("dev", root))


@specimen("cn-mismatch")
def wrong_name(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("other", root))


@specimen("cn-mismatch")
def two_names(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue(["dev", "admin"], root))


@specimen("cn-case")
def name_in_other_case(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("DEV", root))


@specimen("cn-missing")
def no_name(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue(None, root))


@specimen("cn-without-module")
def module_with_its_devices_certificate(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root), key=IdentityKey("dev", "mod"))


@specimen("cn-mismatch")
def device_with_its_modules_certificate(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev/mod", root))


@specimen("intermediate-missing")
def intermediate_not_sent(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", make.intermediate("Middle", root)))


@specimen("certificate-self-signed")
def self_signed_where_an_authority_is_wanted(make: Maker) -> Specimen:
    return under(make.root(), make.issue("dev", None))


@specimen("authority-unknown")
def root_not_registered(make: Maker) -> Specimen:
    stranger = make.root("Stranger")
    return under(make.root(), make.issue("dev", stranger), stranger)


@specimen("authority-unknown")
def no_authority_at_all(make: Maker) -> Specimen:
    return Specimen(make.issue("dev", make.root()))


@specimen("authority-not-verified")
def root_not_verified(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root)
    return under(root, make.issue("dev", middle), middle, authorities=[Registered(root, verified=False)])


@specimen("issuer-key-differs")
def impostor_of_the_root(make: Maker) -> Specimen:
    return under(make.root("Root"), make.issue("dev", make.root("Root")))


@specimen("issuer-key-differs")
def signature_altered(make: Maker) -> Specimen:
    root = make.root()
    return under(root, altered(make.issue("dev", root)))


@specimen("issuer-not-an-authority")
def issued_by_a_device(make: Maker) -> Specimen:
    root = make.root()
    neighbour = make.issue("neighbour", root, authority=False)
    return under(root, make.issue("dev", neighbour), neighbour)


@specimen("issuer-not-an-authority")
def issued_by_one_that_says_nothing_of_itself(make: Maker) -> Specimen:
    root = make.root()
    neighbour = make.issue("neighbour", root)
    return under(root, make.issue("dev", neighbour), neighbour)


@specimen("key-usage")
def issuer_may_not_sign_certificates(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root, usage=("crl_sign",))
    return under(root, make.issue("dev", middle), middle)


@specimen("key-usage")
def leaf_may_not_sign(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, usage=("key_encipherment",)))


@specimen("path-length")
def path_too_long(make: Maker) -> Specimen:
    root = make.root(path_length=0)
    middle = make.intermediate("Middle", root)
    return under(root, make.issue("dev", middle), middle)


@specimen("extended-key-usage")
def for_servers_only(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, purposes=[SERVER]))


@specimen("extended-key-usage")
def intermediate_for_servers_only(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root, purposes=[SERVER])
    return under(root, make.issue("dev", middle), middle)


@specimen("key-too-weak")
def weak_leaf(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, key=kept_key("rsa1024")))


@specimen("key-too-weak")
def weak_intermediate(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root, key=kept_key("rsa1024", 1))
    return under(root, make.issue("dev", middle), middle)


@specimen("key-too-weak")
def curve_too_small(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root, kind="p224")
    return under(root, make.issue("dev", middle), middle)


@specimen("signature-algorithm-weak")
def leaf_signed_with_sha1(make: Maker) -> Specimen:
    root = make.root(key=kept_key("rsa2048"))
    return under(root, with_sha1(make.issue("dev", root), root.key))


@specimen("signature-algorithm-weak")
def intermediate_signed_with_sha1(make: Maker) -> Specimen:
    root = make.root(key=kept_key("rsa2048"))
    middle = with_sha1(make.intermediate("Middle", root), root.key)
    return under(root, make.issue("dev", middle), middle)


@specimen("chain-rules")
def name_outside_the_constraints(make: Maker) -> Specimen:
    root = make.root(extensions=[only_network("10.0.0.0/8")])
    return under(root, make.issue("dev", root, extensions=[address("192.168.1.1")]))


@specimen("chain-rules")
def critical_extension_that_nobody_knows(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root, extensions=[UNKNOWN_CRITICAL]))


@specimen("certificate-malformed")
def too_many_certificates(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root), *(make.root(f"Stranger {number}") for number in range(8)))


@specimen("certificate-revoked")
def leaf_revoked(make: Maker) -> Specimen:
    root = make.root()
    leaf = make.issue("dev", root)
    return under(root, leaf, authorities=[Registered(root, lists=[make.revoked(root, leaf)])])


@specimen("certificate-revoked")
def leaf_revoked_by_an_overdue_list(make: Maker) -> Specimen:
    root = make.root()
    leaf = make.issue("dev", root)
    return under(root, leaf, authorities=[Registered(root, lists=[make.revoked(root, leaf, days=(-30, -2))])])


@specimen("certificate-revoked")
def intermediate_revoked(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root)
    authorities = [Registered(root, lists=[make.revoked(root, middle)])]
    return under(root, make.issue("dev", middle), middle, authorities=authorities)


@specimen("certificate-revoked")
def leaf_revoked_by_the_intermediate(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root)
    leaf = make.issue("dev", middle)
    lists = [make.revoked(root), make.revoked(middle, leaf)]
    return under(root, leaf, middle, authorities=[Registered(root, lists=lists)])


@specimen("revocation-unknown")
def no_list_and_failing_closed(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root), authorities=[Registered(root, rules=RevocationRules(fail_closed=True))])


@specimen("revocation-unknown")
def list_overdue_and_failing_closed(make: Maker) -> Specimen:
    root = make.root()
    one = Registered(root, rules=RevocationRules(fail_closed=True), lists=[make.revoked(root, days=(-30, -2))])
    return under(root, make.issue("dev", root), authorities=[one])


@specimen("revocation-unknown")
def list_of_an_impostor_and_failing_closed(make: Maker) -> Specimen:
    root = make.root()
    middle = make.intermediate("Middle", root)
    forged = make.revoked(make.root("Middle"))
    one = Registered(root, rules=RevocationRules(fail_closed=True), lists=[make.revoked(root), forged])
    return under(root, make.issue("dev", middle), middle, authorities=[one])


# --- the wrong kind of credential, and the registry


@specimen("certificate-for-sas-identity")
def identity_wants_a_token(make: Maker) -> Specimen:
    return alone(make.issue("dev", None), authentication=Authentication(primary_key="a2V5a2V5a2V5a2V5a2V5a2V5"))


@specimen("authentication-none")
def identity_wants_nothing(make: Maker) -> Specimen:
    return alone(make.issue("dev", None), authentication=Authentication(AuthenticationType.NONE))


@specimen("certificate-required")
def no_certificate_came(make: Maker) -> Specimen:
    return Specimen(None, authorities=[Registered(make.root())])


@specimen("token-for-x509-identity")
def token_beside_a_good_certificate(make: Maker) -> Specimen:
    return alone(make.issue("dev", None), with_token=True)


@specimen("device-disabled")
def device_disabled(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root), enabled=False)


@specimen("device-unknown")
def device_unknown(make: Maker) -> Specimen:
    root = make.root()
    return under(root, make.issue("dev", root), registered=False)
