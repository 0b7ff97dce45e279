"""The verdict on a device that registers: each check by name, as ``identity.authenticator`` has it for hubs."""

from __future__ import annotations

from typing import NamedTuple

from muster.core.ambient import Ambient, tracking_id
from muster.core.certificate_limits import CHAIN_CERTIFICATES
from muster.core.errors import UNAUTHORIZED, HubError
from muster.core.limits import SAS_CLOCK_SKEW, SIGNATURE_PROBES, Profile
from muster.core.provisioning_errors import ENROLLMENT_DISABLED
from muster.core.provisioning_limits import GROUPS_SEARCHED
from muster.core.rate import RateLimit
from muster.identity import certificate_checks
from muster.identity.authenticator import Ask
from muster.identity.certificate_checks import Unsettled
from muster.identity.certificates import Certificate
from muster.identity.examination import Credential, Examination, check_expiry, check_token, read_credential
from muster.identity.mistakes import shown
from muster.identity.network import Target
from muster.identity.network_access import NetworkAccess
from muster.identity.refusals import Refusals
from muster.identity.sas import SasToken
from muster.identity.trust import ChainProof, Trust
from muster.identity.verdict import Verdict
from muster.issuing.policies import CredentialPolicies
from muster.provisioning import certificate_requests
from muster.provisioning.attempt import Attempt, Attested
from muster.provisioning.attestation import symmetric_key, tpm, x509
from muster.provisioning.attestation.symmetric_key import SymmetricKeys
from muster.provisioning.attestation.tpm import EndorsementKey
from muster.provisioning.attestation.x509 import EnrolledAnchors, Role, X509Certificates
from muster.provisioning.certificate_requests import Grant
from muster.provisioning.contract import ProvisioningStore
from muster.provisioning.groups import Groups
from muster.provisioning.ids import ALLOWED, is_id, normal
from muster.provisioning.model import AttestationKind, Enrollment, EnrollmentKey, EnrollmentKind

_TOKEN, _CERTIFICATE = "a SAS token", "a client certificate"
_MISMATCH = {
    (AttestationKind.SYMMETRIC_KEY, AttestationKind.X509): "token-for-x509-enrollment",
    (AttestationKind.X509, AttestationKind.SYMMETRIC_KEY): "certificate-for-key-enrollment",
    (AttestationKind.X509, AttestationKind.TPM): "certificate-for-tpm-enrollment",
    (AttestationKind.TPM, AttestationKind.SYMMETRIC_KEY): "tpm-for-other-enrollment",
    (AttestationKind.TPM, AttestationKind.X509): "tpm-for-other-enrollment",
}
"""How the device attests, how it is enrolled, and what that mistake is called."""


class Finding(NamedTuple):
    """A verdict, and what it rests on: the enrollment that was found and what the proof gives, ``None`` for neither.

    ``challenge`` is there when a TPM is to prove itself first: a key to sign with, see ``attestation.tpm``. ``grant``
    says what became of a signing request, ``None`` where none came.
    """

    verdict: Verdict
    enrollment: Enrollment | None
    attested: Attested | None
    challenge: bytes = b""
    grant: Grant | HubError | None = None


class _Found(NamedTuple):
    """What the checks came upon; ``proof`` and its ``until`` where a registered authority may have revoked."""

    enrollment: Enrollment | None = None
    attested: Attested | None = None
    proof: ChainProof | None = None
    until: float = 0.0
    challenge: bytes = b""


_NOTHING = _Found()


class Examiner:
    """Judges attempts at the provisioning service ``scope``; what it refuses is kept in ``refusals``.

    The checks of a token, in order: id-scope, registration-id, credential, token, token-resource, expiry, enrollment,
    attestation, signature, enabled; those of a certificate: id-scope, registration-id, credential, tls, certificate,
    possession, common-name, enrollment, attestation, the certificate or its chain with its rules, validity, revocation,
    enabled; those of a TPM's keys: id-scope, registration-id, credential, enrollment, attestation, endorsement-key,
    storage-root-key, signature, enabled. Where the TPM's token is there, endorsement-key and storage-root-key go before
    its signature. With a signing request credential-policy and csr follow; where there are rules about addresses
    network goes first. The first to fail decides what is answered.
    """

    def __init__(
        self,
        scope: str,
        store: ProvisioningStore,
        groups: Groups,
        *,
        trust: Trust,
        ambient: Ambient,
        refusals: Refusals,
        profile: Profile,
        ask: Ask | None = None,
        policies: CredentialPolicies = lambda _: None,
        network: NetworkAccess | None = None,
    ) -> None:
        """``trust`` holds the registered authorities, ``ask`` asks a responder whether a certificate was revoked,
        ``policies`` say by whom certificates are issued, ``network`` from where devices may come."""
        self._network = network
        self._scope = scope
        self._store = store
        self._groups = groups
        self._trust = trust
        self._ambient = ambient
        self._refusals = refusals
        self._skew = SAS_CLOCK_SKEW.under(profile)
        self._ask = ask
        self._policies = policies
        rate = SIGNATURE_PROBES.under(profile)
        self._searches = RateLimit(rate, rate, ambient.monotonic)

    async def examine(self, attempt: Attempt) -> Finding:
        """Judge an attempt. Raises ``HubError`` 500001 when the store fails."""
        for questions in range(CHAIN_CERTIFICATES.open, -1, -1):
            exam = Examination()
            if self._network is not None:
                self._network.check(exam, attempt.peer, target=Target.DEVICE)
                if exam.error is not None:  # what it shows is not looked at
                    return Finding(self._verdict(exam, attempt), None, None)
            found = await self._examine(exam, attempt)
            try:
                if found.proof is not None:
                    certificate_checks.check_revocation(exam, self._trust, found.proof, found.until)
            except Unsettled as question:
                if self._ask is not None and questions:
                    await self._ask(question.proof, question.link)
                    continue
                authority = self._trust.rules_of(question.proof)
                fail_closed = authority is None or authority.rules.fail_closed
                certificate_checks.unknown(exam, question.seen, fail_closed=fail_closed)
            break
        enrollment = found.enrollment
        if enrollment is None:
            exam.skipped("enabled", "there is no enrollment")
        elif enrollment.enabled:
            exam.passed("enabled", "an enabled enrollment", "enabled")
        else:
            exam.failed("enabled", "enrollment-disabled", ENROLLMENT_DISABLED, expected="enabled", seen="disabled")
        grant = None
        if attempt.csr:
            grant = certificate_requests.check(exam, self._policies, enrollment, attempt.registration_id, attempt.csr)
        return Finding(self._verdict(exam, attempt), enrollment, found.attested, found.challenge, grant)

    def _verdict(self, exam: Examination, attempt: Attempt) -> Verdict:
        error = exam.error
        if error is not None and error.status == UNAUTHORIZED.status:
            error = UNAUTHORIZED  # whichever it was, provisioning knows one (provisioning.md 5.5)
        verdict = Verdict(
            tracking_id=tracking_id(self._ambient), at=self._ambient.now(), transport=attempt.transport,
            peer=attempt.peer, principal=shown(attempt.registration_id), checks=tuple(exam.checks), cause=exam.cause,
            error=error, by_certificate=not attempt.token and bool(attempt.certificates),
        )  # fmt: skip
        if error is not None and exam.cause != tpm.CHALLENGED:
            self._refusals.add(verdict)
        return verdict

    async def _examine(self, exam: Examination, attempt: Attempt) -> _Found:
        self._check_address(exam, attempt)
        if attempt.token:
            return await self._by_token(exam, attempt, read_credential(attempt.token))
        if attempt.endorsement_key:
            return await self._by_tpm(exam, attempt)
        if attempt.certificates:
            return await self._by_certificate(exam, attempt)
        exam.failed(
            "credential", "no-attestation", UNAUTHORIZED, expected=f"{_TOKEN} or {_CERTIFICATE}", seen="nothing"
        )
        return _NOTHING

    def _check_address(self, exam: Examination, attempt: Attempt) -> None:
        """Whether the attempt is meant for this service, and names a device."""
        if attempt.id_scope.lower() == self._scope.lower():
            exam.passed("id-scope", "this service's id scope", "the same")
        else:
            exam.failed(
                "id-scope", "id-scope-unknown", UNAUTHORIZED, expected=self._scope, seen=shown(attempt.id_scope)
            )
        name = attempt.registration_id
        if not is_id(name):
            exam.failed(
                "registration-id", "registration-id-malformed", UNAUTHORIZED,
                expected=f"1 to 128 {ALLOWED}", seen=shown(name),
            )  # fmt: skip
        elif attempt.named and normal(attempt.named) != normal(name):
            exam.failed(
                "registration-id", "registration-id-differs", UNAUTHORIZED,
                expected=shown(name), seen=f"{shown(attempt.named)} in the body",
            )  # fmt: skip
        else:
            exam.passed("registration-id", "a registration id", "well formed")

    async def _individual(self, exam: Examination, attempt: Attempt) -> Enrollment | None:
        """The device's own enrollment; none is looked for where the address is wrong."""
        if exam.error is not None:
            return None
        key = EnrollmentKey(EnrollmentKind.INDIVIDUAL, normal(attempt.registration_id))
        return await self._store.enrollment(self._scope, key)

    # --- symmetric keys

    async def _by_token(self, exam: Examination, attempt: Attempt, credential: Credential) -> _Found:
        if credential.absent is None:
            exam.passed("credential", _TOKEN, _TOKEN if credential.malformed is None else "meant as a SAS token")
        else:
            cause, seen = credential.absent
            exam.failed("credential", cause, UNAUTHORIZED, expected=_TOKEN, seen=seen)
        check_token(exam, credential, UNAUTHORIZED)
        token = credential.token
        if token is not None:
            symmetric_key.check_resource(exam, self._scope, attempt.registration_id, token)
            check_expiry(exam, token, self._ambient.now(), UNAUTHORIZED, self._skew)
        individual = await self._individual(exam, attempt)
        if individual is not None:
            exam.passed("enrollment", "an enrollment of the device", "an individual enrollment")
            held = individual.attestation
            tpms = bool(attempt.endorsement_key) or held.kind is AttestationKind.TPM
            used = AttestationKind.TPM if tpms else AttestationKind.SYMMETRIC_KEY
            if not _check_kind(exam, individual, used) or token is None:
                return _Found(individual)
            if isinstance(held, EndorsementKey):
                return self._by_tpm_token(exam, attempt, individual, held, token)
            assert isinstance(held, SymmetricKeys)
            return _Found(individual, symmetric_key.check_individual(exam, individual, held, token))
        groups = self._groups.of(AttestationKind.SYMMETRIC_KEY)
        if not groups:
            exam.failed(
                "enrollment", "enrollment-unknown", UNAUTHORIZED,
                expected="an enrollment of the device, or a group with symmetric keys", seen="neither",
            )  # fmt: skip
            return _NOTHING
        exam.passed("enrollment", "an enrollment of the device, or a group with symmetric keys", "a group")
        if token is None:
            exam.skipped("signature", "there is no well-formed token")
            return _NOTHING
        match = symmetric_key.matching_group(groups, attempt.registration_id, token)
        if match is not None:
            group, attested = match
            certificate_checks.seen_pass(exam, "signature", "by a key derived from a group's", f"group {group.key.id}")
            return _Found(group, attested)
        searched = groups if len(groups) <= GROUPS_SEARCHED.open or self._searches.take() else ()
        cause, seen = symmetric_key.group_mistake(searched, attempt.registration_id, token)
        exam.failed("signature", cause, UNAUTHORIZED, expected="by a key derived from a group's", seen=seen)
        return _NOTHING

    # --- TPM

    async def _by_tpm(self, exam: Examination, attempt: Attempt) -> _Found:
        """The keys alone: the device is challenged, if they are good."""
        tpm.note_keys(exam, attempt)
        individual = await self._individual(exam, attempt)
        if individual is None:
            exam.failed(
                "enrollment", "enrollment-unknown", UNAUTHORIZED, expected="an enrollment of the device", seen="none"
            )
            return _NOTHING
        exam.passed("enrollment", "an enrollment of the device", "an individual enrollment")
        if not _check_kind(exam, individual, AttestationKind.TPM):
            return _Found(individual)
        held = individual.attestation
        assert isinstance(held, EndorsementKey)
        keys = tpm.check_keys(exam, held, attempt)
        if keys is None or exam.error is not None:
            return _Found(individual)
        tpm.note_challenge(exam)
        made = tpm.challenge(held, keys, attempt, self._ambient.now(), self._ambient.random_bytes)
        return _Found(individual, challenge=made)

    def _by_tpm_token(
        self, exam: Examination, attempt: Attempt, individual: Enrollment, held: EndorsementKey, token: SasToken
    ) -> _Found:
        keys = tpm.check_keys(exam, held, attempt)
        signed = tpm.check_signature(exam, held, attempt.registration_id, token, self._ambient.now())
        if not signed or keys is None:
            return _Found(individual)
        return _Found(individual, tpm.attested(held, keys, attempt, self._ambient.random_bytes))

    # --- certificates

    async def _by_certificate(self, exam: Examination, attempt: Attempt) -> _Found:
        exam.passed("credential", _CERTIFICATE, _CERTIFICATE)
        exam.passed("tls", "TLS 1.2 or 1.3", attempt.tls_version)
        chain = certificate_checks.read(exam, attempt.certificates)
        if chain:
            x509.check_common_name(exam, chain[0], attempt.registration_id)
        if attempt.renews:
            return await self._by_issued(exam, attempt, chain)
        individual = await self._individual(exam, attempt)
        if individual is not None:
            exam.passed("enrollment", "an enrollment of the device", "an individual enrollment")
            if not _check_kind(exam, individual, AttestationKind.X509) or not chain:
                return _Found(individual)
            held = individual.attestation
            assert isinstance(held, X509Certificates)
            if held.role is Role.CLIENT:
                x509.check_enrolled(exam, held, chain, self._ambient.now())
                return _Found(individual, x509.attested(chain, "", None, ""))
            return self._by_chain(exam, chain, EnrolledAnchors([individual], self._trust.registered))
        if not self._groups.of(AttestationKind.X509):
            exam.failed(
                "enrollment", "enrollment-unknown", UNAUTHORIZED,
                expected="an enrollment of the device, or a group with certificates", seen="neither",
            )  # fmt: skip
            return _NOTHING
        exam.passed("enrollment", "an enrollment of the device, or a group with certificates", "a group")
        return self._by_chain(exam, chain, self._groups.anchors) if chain else _NOTHING

    async def _by_issued(self, exam: Examination, attempt: Attempt, chain: tuple[Certificate, ...]) -> _Found:
        """By a certificate of the device's own credential policy; its enrollment is that by which it registered."""
        enrollment = await self._individual(exam, attempt)
        if enrollment is None and exam.error is None:
            registered = await self._store.registration(self._scope, normal(attempt.registration_id))
            if registered is not None:
                enrollment = await self._store.enrollment(self._scope, registered.key)
        if enrollment is None:
            exam.failed(
                "enrollment", "enrollment-unknown", UNAUTHORIZED,
                expected="an enrollment of the device, or one by which it has registered", seen="neither",
            )  # fmt: skip
            return _NOTHING
        exam.passed("enrollment", "an enrollment of the device, or one by which it has registered", "there")
        if not chain:
            return _Found(enrollment)
        way = certificate_checks.check_chain(exam, self._trust, chain)
        until = certificate_checks.check_validity(exam, chain[:1] if way is None else way.path, self._ambient.now())
        if way is None:
            return _Found(enrollment)
        certificate_requests.check_issuer(exam, self._policies(enrollment.credential_policy), way.path)
        return _Found(enrollment, proof=self._trust.proof_of(way), until=until)

    def _by_chain(self, exam: Examination, chain: tuple[Certificate, ...], anchors: EnrolledAnchors) -> _Found:
        way = certificate_checks.check_chain(exam, anchors, chain)
        until = certificate_checks.check_validity(exam, chain[:1] if way is None else way.path, self._ambient.now())
        if way is None:
            return _NOTHING
        enrollment, authority = anchors.enrollment_of(way), anchors.authority_of(way)
        signing = way.path[-1] if len(way.path) > 1 else None
        attested = x509.attested(chain, enrollment.group_id, signing, authority)
        return _Found(enrollment, attested, self._trust.proof_of(way) if authority else None, until)


def _check_kind(exam: Examination, enrollment: Enrollment, used: AttestationKind) -> bool:
    """Whether the device is enrolled for the kind of attestation that it uses."""
    kind = enrollment.attestation.kind
    if kind is used:
        exam.passed("attestation", kind.value, used.value)
        return True
    exam.failed("attestation", _MISMATCH[used, kind], UNAUTHORIZED, expected=kind.value, seen=used.value)
    return False
