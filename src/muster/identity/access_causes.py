"""The usual mistakes with bearer tokens and roles, by name; see ``causes``."""

from __future__ import annotations

from muster.identity.cause import Cause

_FROM_THE_ISSUER = (
    "Ask the issuer for an access token in JWT form, and send it as it came: Authorization: Bearer <token>."
)
_AGAIN = "Get a new token from the issuer; SDKs with a token credential do so by themselves."

ACCESS = (
    Cause("bearer-too-long", "The bearer token is longer than any that the hub reads.",
          "Have the issuer put less into it, groups above all."),
    Cause("bearer-malformed", "What was sent as a bearer token is no JWT that can be read.", _FROM_THE_ISSUER),
    Cause("bearer-issuer", "The token is by an issuer that the hub does not trust.",
          "Get the token from an issuer that the hub was started with (--oidc-issuer, MUSTER_OIDC_ISSUER), or add "
          "this one."),
    Cause("issuer-unreachable", "The issuer's keys could not be fetched, so its token could not be judged.",
          "See that the hub reaches the issuer's /.well-known/openid-configuration and jwks_uri, and trusts its "
          "certificate (--oidc-ca)."),
    Cause("issuer-keys-too-old", "The issuer has been out of reach for so long that its keys count no more.",
          "See that the hub reaches the issuer again; the log says what went wrong."),
    Cause("bearer-key-unknown", "The token names a signing key (kid) that the issuer does not publish.", _AGAIN),
    Cause("bearer-key-removed", "The token is signed with a key that the issuer has withdrawn.", _AGAIN),
    Cause("bearer-algorithm", "The token is not signed, or with an algorithm that does not fit the issuer's key.",
          "Have the issuer sign access tokens with RS256, PS256 or ES256, or their longer kin."),
    Cause("bearer-key-weak", "The issuer's key is too short to prove anything.",
          "Give the issuer an RSA key of 2048 bits or more."),
    Cause("bearer-signature", "The token's signature is not the issuer's: it was changed, or another made it.", _AGAIN),
    Cause("bearer-audience", "The token was made for another service.",
          "Ask the issuer for a token for the audience expected, or name yours to the hub (--oidc-audience, "
          "MUSTER_OIDC_AUDIENCE)."),
    Cause("bearer-expired", "The token has expired.", _AGAIN),
    Cause("bearer-too-early", "The token does not count yet.", "Set the clocks of the hub and the issuer."),
    Cause("role-missing", "The token counts, and its caller has no role that allows this.",
          "Give the caller one of the roles expected: in the token's claim roles, or by `muster role`."),
    Cause("role-elsewhere", "The caller has a role that allows this, but at another hub or for other devices.",
          "Grant the role for this hub, or for devices among which this one is."),
    Cause("bearer-not-here", "The operation takes tokens of shared access policies only.",
          "Use a connection string with a policy that has the right."),
)  # fmt: skip
"""What may be wrong with a token by an issuer, and with what its caller wants."""
