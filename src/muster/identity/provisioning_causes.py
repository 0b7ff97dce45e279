"""The usual mistakes of devices that register with the provisioning service, by name; see ``causes``."""

from __future__ import annotations

from muster.identity.cause import Cause

_DERIVE = (
    "Derive the device's key as base64(HMAC-SHA256(base64-decoded group key, registration id)), as "
    "`muster provisioning group key <name> <registration id>` does."
)
_RESOURCE = "Write the token's sr as <id scope>/registrations/<registration id>."

PROVISIONING = (
    Cause(
        "id-scope-unknown",
        "The device named an id scope that is not this provisioning service's.",
        "Use the id scope that `muster env` prints (DPS_ID_SCOPE).",
    ),
    Cause(
        "registration-id-malformed",
        "The registration id is not one.",
        "Use 1 to 128 ASCII letters, digits, '-', '.', '_' and ':', a letter, digit or '-' at the end.",
    ),
    Cause(
        "registration-id-differs",
        "The registration id in the body is not the one in the address.",
        "Send one registration id in both places, or none in the body.",
    ),
    Cause(
        "no-attestation",
        "The device sent nothing to prove who it is.",
        "Send a SAS token signed with its key, or let it present its certificate in the TLS handshake.",
    ),
    Cause(
        "enrollment-unknown",
        "There is no enrollment for the device, and no group of its kind of attestation.",
        "Enroll it: muster provisioning enrollment add <id>, or make a group: muster provisioning group add <name>.",
    ),
    Cause(
        "enrollment-disabled",
        "The device's enrollment is disabled; it proved who it is.",
        "Enable it: set its provisioningStatus to enabled, if the device is still to be trusted.",
    ),
    Cause(
        "token-for-x509-enrollment",
        "A SAS token was sent, and the device is enrolled for X.509.",
        "Let it present its certificate, or enroll it with a symmetric key.",
    ),
    Cause(
        "certificate-for-key-enrollment",
        "A certificate was sent and no token, and the device is enrolled with a symmetric key.",
        "Let it send a token signed with its key, or enroll it for X.509.",
    ),
    Cause(
        "certificate-for-tpm-enrollment",
        "A certificate was sent and no token, and the device is enrolled with a TPM.",
        "Let it register with its TPM, or enroll it for X.509.",
    ),
    Cause(
        "tpm-for-other-enrollment",
        "The device registers with a TPM, and is enrolled with a symmetric key or for X.509.",
        "Enroll it with its endorsement key: muster provisioning enrollment add <id> --tpm <file>.",
    ),
    Cause(
        "tpm-challenged",
        "The device was sent the key that only its TPM can take in; it proves itself by a token signed with that.",
        "Nothing, if it came back with a token; else see what the device says of its TPM (ActivateCredential, Import).",
    ),
    Cause(
        "endorsement-key-differs",
        "The device's TPM is not the one that is enrolled.",
        "Enroll its endorsement key, if the device is yours: muster provisioning enrollment add <id> --tpm <file>.",
    ),
    Cause(
        "storage-root-key-malformed",
        "The device sent no storage root key of a TPM.",
        "Send tpm.storageRootKey as base64 of a TPM2B_PUBLIC: RSA of 2048 bits, made in the TPM; the SDKs do.",
    ),
    Cause(
        "credential-policy-missing",
        "The device asked for a certificate, and its enrollment names no credential policy.",
        "Name one: muster provisioning group add <name> --credential-policy default.",
    ),
    Cause(
        "credential-policy-unknown",
        "The enrollment names a credential policy that the service has not.",
        "Make the authority of `default` with muster ca init, or give others to muster serve --credential-policy.",
    ),
    Cause(
        "certificate-not-issued-here",
        "The device renews with a certificate that the authority of its credential policy has not issued.",
        "Renew with the certificate that was issued, or enroll again by simpleenroll with the first proof.",
    ),
    Cause(
        "csr-refused",
        "The device's certificate signing request cannot be granted.",
        "Make it with CN=<registration id> exactly, P-256, P-384 or RSA, signed with the device's own key, base64 DER.",
    ),
    Cause(
        "challenge-key-differs",
        "The token was not signed with the key of a challenge that is still good.",
        "Register anew: ask without a token, take in the authenticationKey of the answer, sign with that.",
    ),
    Cause("token-scope-differs", "The token was made for another id scope than the one asked.", _RESOURCE),
    Cause(
        "token-registration-differs", "The token was made for another registration id than the one asked.", _RESOURCE
    ),
    Cause(
        "hub-token-on-provisioning",
        "A token for a hub was sent to the provisioning service.",
        f"{_RESOURCE} The hub's token is for the hub, once the device is assigned.",
    ),
    Cause("token-resource-malformed", "The token's sr is not that of a registration.", _RESOURCE),
    Cause(
        "wrong-enrollment-key",
        "The token was signed with a key that is none of the enrollment's.",
        "Copy the key again: muster provisioning enrollment show <id> --keys prints it.",
    ),
    Cause(
        "group-key-used",
        "The token was signed with the group's own key, which no device should have.",
        _DERIVE,
    ),
    Cause(
        "derived-from-other-id",
        "The key was derived from the registration id in other letters, upper and lower case count there.",
        "Derive the key from the registration id exactly as the device sends it; lower case is best.",
    ),
    Cause(
        "derived-with-key-as-text",
        "The key was derived with the text of the group's key; it must be base64-decoded first.",
        _DERIVE,
    ),
    Cause(
        "derived-key-unknown",
        "The token was signed with a key that derives from no group's.",
        f"{_DERIVE} Or enroll the device by itself.",
    ),
    Cause(
        "registration-cn-differs",
        "The certificate's common name is not the registration id.",
        "Issue it with CN=<registration id>, or let the device register with the certificate's common name.",
    ),
    Cause(
        "registration-cn-missing",
        "The certificate has no common name, which would be the registration id.",
        "Issue it with CN=<registration id> in the subject.",
    ),
    Cause(
        "certificate-not-enrolled",
        "The certificate is none of those that the device is enrolled with.",
        "Put the device's own certificate into its enrollment, as primary or secondary.",
    ),
    Cause(
        "issuer-enrolled-as-device",
        "The device is enrolled with the certificate of its issuer, as if that were its own.",
        "Put the device's own certificate into its enrollment, or make a group of the issuer's.",
    ),
    Cause(
        "no-group-for-certificate",
        "The certificate leads to no authority that a group is made of.",
        "Make a group of the issuer's certificate: muster provisioning group add <name> --certificate <file>.",
    ),
    Cause(
        "reference-unknown",
        "The enrollment refers to a certificate authority that is not registered.",
        "Register it under that name: muster ca add <name> <file>, then muster ca verify <name>.",
    ),
)
