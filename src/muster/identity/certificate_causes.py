"""The usual mistakes with certificates and with TLS, by name; see ``causes``."""

from __future__ import annotations

from muster.identity.cause import Cause

_CHAIN_AGAIN = "Put the device's certificate and all intermediates, in this order, into the file that the client sends."

CERTIFICATE = (
    Cause(
        "certificate-for-sas-identity",
        "A client certificate was sent, and no token, for an identity that is registered for SAS.",
        "Give the client the connection string with the key, or register the identity with --auth x509-thumbprint or "
        "x509-ca.",
    ),
    Cause(
        "certificate-malformed",
        "What was sent as a client certificate cannot be read, or is too large.",
        "Make the certificate with openssl, step or `muster ca issue`; send at most 8 of at most 16 KiB.",
    ),
    Cause(
        "thumbprint-unknown",
        "The certificate's thumbprint is not one of those that the identity is registered with.",
        "Register it: openssl x509 -noout -fingerprint -sha256 -in cert.pem prints it; or send the certificate that is "
        "registered.",
    ),
    Cause(
        "thumbprint-of-other-device",
        "The certificate is the one that another identity is registered with.",
        "Give each device a certificate of its own, and connect with its own id.",
    ),
    Cause(
        "thumbprint-is-secondary-of-other-device",
        "The certificate's thumbprint is the secondary thumbprint of another identity.",
        "Give each device a certificate of its own; look for a roll-over that registered "
        "this one with the wrong device.",
    ),
    Cause(
        "thumbprint-of-issuer",
        "The identity is registered with the thumbprint of the certificate's issuer, not of the certificate.",
        "Register the thumbprint of the device's own certificate, or register the identity with --auth x509-ca.",
    ),
    Cause(
        "intermediate-missing",
        "The intermediate certificate is missing from what the device sent.",
        f"{_CHAIN_AGAIN} Or register the intermediate: muster ca add.",
    ),
    Cause(
        "authority-unknown",
        "The certificate leads to an authority that is not registered with the hub.",
        "Register it: muster ca add NAME FILE, then muster ca verify.",
    ),
    Cause(
        "authority-not-verified",
        "The certificate leads to an authority that is registered but not verified.",
        "Verify it: muster ca verify NAME.",
    ),
    Cause(
        "certificate-self-signed",
        "The certificate is self-signed, and the identity is registered for an authority's certificates.",
        "Have an authority issue the certificate, or register the identity with --auth x509-thumbprint.",
    ),
    Cause(
        "issuer-key-differs",
        "An issuer of the right name was found, but the signature was not made with its key.",
        "Look for an authority that was made anew under the same name, or a certificate that was altered; register the "
        "authority that did sign.",
    ),
    Cause("chain-too-long", "No way to an authority was found within 8 certificates.", _CHAIN_AGAIN),
    Cause(
        "issuer-not-an-authority",
        "A certificate in the chain was issued by one that is no certificate authority.",
        "Issue it again with an authority whose certificate has basicConstraints CA:TRUE.",
    ),
    Cause(
        "path-length",
        "An authority in the chain allows fewer authorities below it than there are.",
        "Issue the certificate closer to that authority, or make the authority with a larger pathlen.",
    ),
    Cause(
        "key-usage",
        "A certificate in the chain may not be used as it is, its key usage forbids it.",
        "Issue it again: keyCertSign for authorities, digitalSignature for devices.",
    ),
    Cause(
        "extended-key-usage",
        "A certificate in the chain is not for TLS clients, its extended key usage says so.",
        "Issue it again with clientAuth in its extended key usage, or without that extension.",
    ),
    Cause(
        "key-too-weak",
        "A key in the chain is too weak, or of a kind that is not taken.",
        "Make a new key, EC P-256 or RSA 2048 at least, and have it certified.",
    ),
    Cause(
        "signature-algorithm-weak",
        "A certificate in the chain is signed with SHA-1 or MD5.",
        "Issue it again with SHA-256.",
    ),
    Cause(
        "chain-rules",
        "The chain breaks a rule of X.509.",
        "Issue the certificate again so that openssl verify takes it.",
    ),
    Cause(
        "certificate-expired",
        "A certificate in the chain has expired.",
        "Renew it; roll devices over before the end, `muster doctor` tells when.",
    ),
    Cause(
        "certificate-not-yet-valid",
        "A certificate in the chain is not valid yet.",
        "Compare the clocks of the hub and of the machine that issued it.",
    ),
    Cause(
        "cn-mismatch",
        "The certificate's common name is not the id that connects.",
        "Issue it with CN=<device id>, or CN=<device id>/<module id> for a module.",
    ),
    Cause(
        "cn-case",
        "The certificate's common name differs from the id in upper and lower case only.",
        "Use the id exactly as it is registered; ids are case-sensitive.",
    ),
    Cause(
        "cn-missing",
        "The certificate has no common name; other names in it do not count.",
        "Issue it with CN=<device id> in the subject.",
    ),
    Cause(
        "cn-without-module",
        "The certificate is the device's, or lacks the device's id, and a module connects.",
        "Issue one for the module with CN=<device id>/<module id>.",
    ),
    Cause(
        "certificate-revoked",
        "A certificate in the chain was revoked.",
        "Issue a new certificate with a new key, if the device is still to be trusted.",
    ),
    Cause(
        "revocation-unknown",
        "Nothing current is known of whether the certificate was revoked, and its authority fails closed.",
        "Load the authority's list (muster ca crl NAME FILE), or see that its URL or responder can be reached; the "
        "device tries again by itself.",
    ),
    Cause(
        "local-auth-disabled",
        "Tokens of shared access policies are switched off at this hub (disableLocalAuth).",
        "Let services come with bearer tokens, devices with their own keys; or switch policies on again: muster hub "
        "set <hub> --local-auth on, and muster serve without --disable-local-auth.",
    ),
    Cause(
        "device-sas-disabled",
        "Tokens of devices are switched off at this hub (disableDeviceSAS).",
        "Give the device a certificate, or switch them on again: muster hub set <hub> --device-sas on, and muster "
        "serve without --disable-device-sas.",
    ),
    Cause(
        "module-sas-disabled",
        "Tokens of modules are switched off at this hub (disableModuleSAS).",
        "Give the module a certificate, or switch them on again: muster hub set <hub> --module-sas on, and muster "
        "serve without --disable-module-sas.",
    ),
)

HANDSHAKE = (
    Cause(
        "tls-version",
        "The client speaks only TLS versions that are too old.",
        "Let it speak TLS 1.2 or 1.3; old libraries need an update.",
    ),
    Cause(
        "tls-not-spoken",
        "What came was not TLS.",
        "Use TLS on this port: mqtts, amqps or https.",
    ),
    Cause(
        "hub-not-trusted",
        "The client does not trust the hub's certificate.",
        "Give it the hub's CA: muster env prints HUB_CA_FILE and the variables that SDKs read.",
    ),
    Cause(
        "hub-name-not-in-certificate",
        "The client called the hub by a name that is not in the hub's certificate.",
        "Use one of the hub's names, or add the name: muster serve --hostname NAME (the first stays first).",
    ),
    Cause(
        "hub-certificate-refused",
        "The client refused the hub's certificate.",
        "Compare the host name that it uses with the hub's (muster env), and its clock.",
    ),
    Cause(
        "tls-no-common-cipher",
        "Client and hub have no cipher or curve in common.",
        "Let the client offer ECDHE with AES-GCM or ChaCha20, and P-256.",
    ),
    Cause(
        "possession-not-proven",
        "The client sent a certificate and could not prove that it has the key.",
        "Give the client the private key that belongs to its certificate, EC P-256 or RSA 2048 at least.",
    ),
    Cause(
        "handshake-broken-off",
        "The client went away in the midst of the TLS handshake.",
        "See the client's own log: it may not trust the hub's certificate (muster env prints HUB_CA_FILE).",
    ),
    Cause(
        "handshake-timeout",
        "The TLS handshake was not done in time.",
        "Look at the network between client and hub; something may hold packets back.",
    ),
    Cause("handshake-failed", "The TLS handshake failed.", "See what was seen, and the client's own log."),
)
"""Why a connection never became one."""
