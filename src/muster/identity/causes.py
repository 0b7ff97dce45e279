"""The usual mistakes, by name: why a client was refused, said so that a newcomer can mend it.

One row for every ``Verdict.cause``: mistakes in credentials, and rules of the protocols that clients break before
they log in or later (``BREACHES``). ``headline`` is the sentence that ``muster why`` begins with, ``remedy``
what to do. Neither holds anything of the credential. ``docs/errors.md`` is generated from this table.
"""

from __future__ import annotations

from muster.identity.access_causes import ACCESS
from muster.identity.cause import Cause
from muster.identity.certificate_causes import CERTIFICATE, HANDSHAKE
from muster.identity.network_causes import NETWORK
from muster.identity.provisioning_causes import PROVISIONING

_WRITE_IT_SO = "Send SharedAccessSignature sr=...&sig=...&se=..., as `muster token` prints it."
_SAME_AS_AZURE = "Let an SDK or `muster token` make the token."
_KEY_AGAIN = "Copy the connection string again: muster device show <id> prints it."
_POLICY_AGAIN = "Copy the connection string again from `muster env`."

CREDENTIAL = (
    Cause(
        "no-token",
        "No credential was sent.",
        "Send a SAS token: as the password (MQTT), by put-token or SASL PLAIN (AMQP), in the Authorization header "
        "(HTTPS).",
    ),
    Cause(
        "connection-string-as-token",
        "A whole connection string was sent where a SAS token belongs.",
        "Give the connection string to an SDK, or make a token from it: muster token --login '<connection string>'.",
    ),
    Cause(
        "key-as-token",
        "The bare key was sent where a SAS token belongs.",
        "Never send the key itself: sign a token with it (muster token), and replace the key if the line was not "
        "encrypted.",
    ),
    Cause(
        "bearer-token",
        "A bearer token was sent where none counts: devices have none, and the hub trusts no issuer of services'.",
        "Devices: use their connection string. Services: name the issuer to the hub, --oidc-issuer or "
        "MUSTER_OIDC_ISSUER, or use a shared access policy.",
    ),
    Cause(
        "token-scheme-missing",
        "The token lacks its first word, SharedAccessSignature.",
        "Put 'SharedAccessSignature ' (with one blank) before sr=.",
    ),
    Cause(
        "token-whitespace",
        "There are quotes, blanks or line breaks in or around the token.",
        "Send the token alone, on one line, without quotes.",
    ),
    Cause("token-encoded", "The whole token was percent-encoded once more.", "Send the token as it was made."),
    Cause("token-too-long", "The token is longer than any real one.", _WRITE_IT_SO),
    Cause("token-malformed", "What was sent is not a SAS token.", _WRITE_IT_SO),
    Cause("token-field-missing", "The token lacks one of its fields sr, sig and se.", _WRITE_IT_SO),
    Cause("token-field-twice", "A field stands twice in the token.", _WRITE_IT_SO),
    Cause(
        "expiry-not-seconds",
        "The token's expiry (se) is not a number of seconds.",
        "Write se as seconds since 1970-01-01 UTC, such as 1767225600; not as a date.",
    ),
    Cause(
        "signature-not-base64",
        "The token's signature (sig) is not base64.",
        "Percent-encode the base64 signature: + is %2B, / is %2F, = is %3D.",
    ),
    Cause(
        "signature-encoded-twice",
        "The token's signature (sig) was percent-encoded twice.",
        "Percent-encode the base64 signature once.",
    ),
    Cause(
        "signature-in-hex",
        "The token's signature (sig) is written in hexadecimal.",
        "Write the 32 bytes of HMAC-SHA256 in base64, then percent-encode them.",
    ),
    Cause(
        "signature-length",
        "The token's signature (sig) is not 32 bytes long.",
        "Sign with HMAC-SHA256; SHA-1 and SHA-512 do not fit.",
    ),
)

PLACE = (
    Cause(
        "host-unknown",
        "The client asked for a host name that is not this hub's.",
        "Use one of the hub's names in the connection string, or add the name: muster serve --hostname NAME "
        "(the first stays first).",
    ),
    Cause(
        "token-for-another-hub",
        "The token was made for another hub: the host in its sr is not one of this hub's names.",
        "Use HostName of this hub when making the token, or add the name: muster serve --hostname NAME.",
    ),
)

REGISTRY = (
    Cause("device-unknown", "No such device is registered.", "Register it: muster device add <id>."),
    Cause(
        "device-id-case",
        "No such device is registered, but one whose id differs only in upper and lower case.",
        "Write the id exactly as registered; ids are case-sensitive.",
    ),
    Cause(
        "policy-as-device",
        "A shared access policy's name was given where a device id belongs.",
        "Connect as a device: muster device show <id> prints its connection string.",
    ),
    Cause(
        "module-unknown", "The device has no such module.", "Register it: muster device add <device> --module <module>."
    ),
    Cause(
        "device-disabled",
        "The device is disabled.",
        "Enable it: set its status to enabled in the registry (PUT /devices/<id>).",
    ),
    Cause(
        "certificate-required",
        "The identity is registered for X.509, and no certificate was accepted.",
        "Connect with its client certificate, or register it with --auth sas.",
    ),
    Cause(
        "token-for-x509-identity",
        "A SAS token was sent for an identity that is registered for X.509.",
        "Connect with its client certificate, or register it with --auth sas.",
    ),
    Cause(
        "authentication-none",
        "The identity is registered without any way to authenticate.",
        "Give it symmetric keys or a certificate in the registry.",
    ),
    Cause(
        "key-not-base64",
        "The key in the registry is not base64, so nothing can be checked with it.",
        "Give the identity a base64 key in the registry; muster device add makes one.",
    ),
)

SCOPE = (
    Cause(
        "method-target",
        "A module called a method of a device that is not its own and not below its edge device.",
        "Name the module's edge device in the target's parentScopes, or call as a service, with ServiceConnect.",
    ),
    Cause(
        "device-mismatch",
        "The token is for another device than the one that connects.",
        "Use the same device id in the connection and in the token's sr.",
    ),
    Cause(
        "module-mismatch",
        "The token is for another module than the one that connects.",
        "Use the same module id in the connection and in the token's sr.",
    ),
    Cause(
        "module-token-for-device",
        "A module's token was used to connect as the device itself.",
        "Connect as <device>/<module>, or sign a token for the device with the device's key.",
    ),
    Cause(
        "scope-without-devices",
        "The token's sr lacks the word devices between host and device id.",
        "Write sr as <host>/devices/<device id>.",
    ),
    Cause(
        "scope-too-narrow",
        "The token's sr names something below, or beside, what is asked for.",
        "Write sr as <host>/devices/<device id> for a device, or as <host> for a policy.",
    ),
    Cause(
        "policy-token-for-device",
        "A policy's token for one device came with a call about its twin or methods; Azure does not take it.",
        "Write sr as <host> alone; or use the profile open, where such a token is good for all calls about its device.",
    ),
    Cause(
        "scope-encoded-too-often",
        "The token's sr was percent-encoded once too often.",
        "Percent-encode sr once (its slashes become %2F), and sign that text.",
    ),
    Cause(
        "policy-name-missing",
        "The token is for the whole hub but names no shared access policy (skn).",
        "Add &skn=<policy> when signing with a policy's key; for a device key write sr as <host>/devices/<device id>.",
    ),
    Cause(
        "device-token-on-service",
        "A device's token was used where a service's is needed.",
        "Use a connection string with SharedAccessKeyName: muster env prints them.",
    ),
)

POLICY = (
    Cause(
        "policy-unknown",
        "There is no shared access policy of the name in skn.",
        "Use one of muster hub policy list, at the provisioning service one of muster provisioning policy list; leave "
        "skn out with a device key.",
    ),
    Cause(
        "policy-lacks-right",
        "The shared access policy does not grant the right that is needed.",
        "Use a policy that does, such as iothubowner, service (services) or device (devices); at the provisioning "
        "service provisioningserviceowner; or grant it: muster hub policy set, muster provisioning policy set.",
    ),
    Cause(
        "policy-name-on-device-key",
        "The token names a shared access policy (skn) but was signed with the device's own key.",
        "Leave skn (SharedAccessKeyName) out when signing with a device key.",
    ),
    Cause(
        "user-mismatch",
        "The SASL user name does not fit the token.",
        "Log in as <policy>@sas.root.<hub name> with a token of that policy, as a device with its own as "
        "<device id>@sas.<hub name>.",
    ),
)

SIGNATURE = (
    Cause("wrong-key", "The token was signed with a key that is none of those allowed here.", _KEY_AGAIN),
    Cause(
        "key-of-other-device",
        "The token is for this device but was signed with another device's key.",
        "Give each device its own connection string.",
    ),
    Cause(
        "key-of-device",
        "The module's token was signed with its device's key.",
        "A module has keys of its own: use the module's connection string (muster device show <device> --module <m>).",
    ),
    Cause(
        "key-of-module",
        "The device's token was signed with the key of one of its modules.",
        "Use the device's own connection string.",
    ),
    Cause(
        "key-of-policy",
        "The device's token was signed with a shared access policy's key but does not name the policy.",
        "Add &skn=<policy> to the token, or sign with the device's key.",
    ),
    Cause(
        "key-of-other-policy",
        "The token names one shared access policy but was signed with the key of another.",
        _POLICY_AGAIN,
    ),
    Cause(
        "key-used-as-text",
        "The key's text was used to sign; it must be base64-decoded first.",
        "Decode the key from base64 and sign with the bytes.",
    ),
    Cause(
        "signed-over-decoded-resource",
        "The signature was made over the decoded sr, but the token carries it percent-encoded.",
        f"Sign exactly the sr text that stands in the token. {_SAME_AS_AZURE}",
    ),
    Cause(
        "signed-over-encoded-resource",
        "The signature was made over a percent-encoded sr, but the token carries it otherwise.",
        f"Sign exactly the sr text that stands in the token. {_SAME_AS_AZURE}",
    ),
    Cause(
        "signed-over-lower-case-resource",
        "The signature was made over sr in lower case, but the token carries it otherwise.",
        f"Sign exactly the sr text that stands in the token. {_SAME_AS_AZURE}",
    ),
    Cause(
        "signed-without-line-feed",
        "The signature was not made over sr, one line feed, and se.",
        f"Sign sr + '\\n' + se, where \\n is the single byte 10. {_SAME_AS_AZURE}",
    ),
)

TIME = (
    Cause(
        "token-expired",
        "The token has expired.",
        "Make a new token; if it was just made, compare the clocks of the device and of the hub.",
    ),
    Cause(
        "device-clock-not-set",
        "The token expired years ago: the clock that made it is not set.",
        "Set the device's clock (NTP) before it makes tokens.",
    ),
)

CONNECTION = (
    Cause(
        "client-id-mismatch",
        "The MQTT client id does not agree with the user name.",
        "Use <device id>, or <device id>/<module id>, as the client id.",
    ),
    Cause(
        "api-version-missing",
        "The user name lacks the api-version.",
        "End the MQTT user name with /?api-version=2021-04-12.",
    ),
)

BREACHES = (
    Cause(
        "connect-wait",
        "The client connected and then did not log in in time.",
        "Log in at once: CONNECT over MQTT; over AMQP open, then SASL PLAIN or a token to $cbs.",
    ),
    Cause("first-packet", "The first packet was not CONNECT.", "Send CONNECT first."),
    Cause(
        "packet",
        "The client sent what MQTT 3.1.1 or the hub does not allow.",
        "Check that the client speaks MQTT 3.1.1 over TLS to this port: one CONNECT, QoS 0 and 1.",
    ),
    Cause("client-id", "The MQTT client id is empty.", "Send <device id>, or <device id>/<module id>."),
    Cause(
        "user-name",
        "The MQTT user name is malformed.",
        "Send <host>/<device id>/?api-version=2021-04-12; a module's id goes behind the device's: "
        "<host>/<device id>/<module id>/?...",
    ),
    Cause(
        "will",
        "The will of the CONNECT was not taken.",
        "Address it to the device's own telemetry topic, devices/<device id>/messages/events/, and keep it below "
        "256 KiB.",
    ),
    Cause(
        "topic",
        "A message was published to a topic that is not the sender's own, or is malformed.",
        "Publish telemetry to devices/<device id>/messages/events/, a module to "
        "devices/<device id>/modules/<module id>/messages/events/; properties follow as name=value&name=value.",
    ),
    Cause(
        "credential-topic",
        "A message was published to a topic below $iothub/credentials/ that is no request for a certificate.",
        "Publish to $iothub/credentials/POST/issueCertificate/?$rid=<id>, 4 to 36 letters, digits and dashes.",
    ),
    Cause(
        "twin-topic",
        "A message was published to a topic below $iothub/twin/ that is no twin request.",
        "Publish to $iothub/twin/GET/?$rid=<id> or $iothub/twin/PATCH/properties/reported/?$rid=<id>; parts of a twin "
        "cannot be asked for.",
    ),
    Cause(
        "throttle",
        "The hub's rate, or the device's share of it, was exceeded for too long.",
        "Send less often, or give the hub more --units, another --tier or --throttle off; `muster limits --live` shows "
        "every rate.",
    ),
    Cause(
        "quota",
        "The hub has had all the messages of its tier and units for this day.",
        "Wait until midnight UTC, or give the hub more --units, another --tier or --throttle off.",
    ),
    Cause("qos", "A message of QoS 2 was published.", "Publish with QoS 1, or 0."),
    Cause(
        "backlog",
        "The client did not read what the hub sent to it.",
        "Read from the connection without pause; after a reconnect, get the twin to see what was missed.",
    ),
    Cause(
        "message-size",
        "A message was larger than 256 KiB, its properties included.",
        "Send less in one message, or upload a file.",
    ),
    Cause(
        "keep-alive",
        "The client was silent for longer than one and a half keep-alive intervals.",
        "Send PINGREQ in time, or ask for a longer keep-alive.",
    ),
    Cause(
        "token-expiry",
        "The token of an open connection ran out.",
        "Reconnect with a new token before the old one ends; the SDKs do.",
    ),
    Cause(
        "policy-withdrawn",
        "The shared access policy that let the client in was deleted, or lost the key or the right that it came by.",
        "Give it the new connection string (muster hub policy show <name>); it connects again by itself where that is "
        "read anew.",
    ),
    Cause(
        "certificate-end",
        "The certificate of an open connection ran out.",
        "Renew the certificate before it ends; `muster doctor` tells when.",
    ),
    Cause(
        "sasl",
        "The SASL PLAIN response is malformed.",
        "Send <policy>@sas.root.<hub name> and a SAS token; an SDK does.",
    ),
    Cause(
        "sasl-tpm",
        "What the client says by the SASL mechanism TPM is malformed, or no provisioning service is served here.",
        "Say it as an SDK does, to a hub that serves one: id scope, id and endorsement key; storage root key; token.",
    ),
    Cause(
        "registration-topic",
        "A device of the provisioning service published to a topic where nothing is asked, or a malformed one.",
        "Publish to $dps/registrations/PUT/iotdps-register/?$rid=<id>, then to "
        "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=<id>&operationId=<operation id>.",
    ),
    Cause(
        "registration-unheard",
        "A device asked the provisioning service and had not subscribed to the answers.",
        "Subscribe to $dps/registrations/res/# before publishing.",
    ),
    Cause(
        "registration-silence",
        "A device stayed connected to the provisioning service and asked for nothing.",
        "Close the connection once the device is assigned; connect again to register again.",
    ),
    Cause(
        "fault",
        "The client asked for this fault itself, to prove that it recovers (AzIoTHub_FaultOperationType).",
        "Nothing: let it reconnect. `muster serve --fault-injection off` takes such messages like any other.",
    ),
    Cause(
        "link-scope",
        "A link was attached without a token that covers its address.",
        "Put a token for the link's address, or for the whole hub, to $cbs before attaching it.",
    ),
)
"""What a connection may be ended for besides its credential."""

ALL: tuple[Cause, ...] = CREDENTIAL + PLACE + REGISTRY + SCOPE + POLICY + SIGNATURE + TIME + CONNECTION
"""What may be wrong with a token, and with the connection that it came on."""
BY_NAME: dict[str, Cause] = {
    cause.name: cause for cause in ALL + ACCESS + CERTIFICATE + BREACHES + HANDSHAKE + PROVISIONING + NETWORK
}
