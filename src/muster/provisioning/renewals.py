"""Certificates renewed at the hub (provisioning.md 8.4): a device that was assigned asks its hub for another one, by
the credential policy of the enrollment by which it registered."""

from __future__ import annotations

from collections.abc import Mapping

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.provisioning_errors import CSR_REJECTED, ENROLLMENT_DISABLED
from muster.identity.keys import Credentials
from muster.identity.model import AuthenticationType
from muster.issuing.policies import CredentialPolicies, issue
from muster.issuing.requests import read_request
from muster.provisioning.certificate_requests import thumbprints
from muster.provisioning.contract import DeviceDraft, LinkedHub, ProvisioningStore
from muster.provisioning.ids import normal


class Renewals:
    """For devices of the provisioning service ``scope``, at any of ``hubs``."""

    def __init__(
        self,
        scope: str,
        store: ProvisioningStore,
        policies: CredentialPolicies,
        hubs: Mapping[str, LinkedHub],
        ambient: Ambient,
    ) -> None:
        self._scope = scope
        self._store = store
        self._policies = policies
        self._hubs = hubs
        self._ambient = ambient

    async def renew(self, host: str, device_id: str, csr: bytes, shown: str) -> tuple[bytes, ...]:
        """A certificate for the device at the hub ``host``, and the chain behind it, in DER.

        ``shown`` is the SHA-256 thumbprint of the certificate with which it is connected, empty for another proof:
        a hub that knows the device by its thumbprint knows the new one from then on, and the one that was shown still.
        Raises ``HubError`` 400004 for a device without a policy, 400037 for a request that cannot be granted, 403201
        where its enrollment is disabled.
        """
        registration = await self._store.registration(self._scope, normal(device_id))
        here = registration is not None and (registration.assigned_hub, registration.device_id) == (host, device_id)
        enrollment = None
        if registration is not None and here:
            enrollment = await self._store.enrollment(self._scope, registration.key)
        policy = None if enrollment is None else self._policies(enrollment.credential_policy)
        if enrollment is None or policy is None:
            raise HubError(
                ARGUMENT_INVALID, "The device has no credential policy, register by an enrollment that names one."
            )
        if not enrollment.enabled:
            raise HubError(ENROLLMENT_DISABLED)
        try:
            chain = issue(policy, read_request(csr, device_id), self._ambient)
        except HubError as error:
            raise HubError(CSR_REJECTED, error.message) from error
        hub, (leaf, authority) = self._hubs[host], thumbprints(chain)
        if not hub.trusts(authority):
            known = Credentials(
                AuthenticationType.SELF_SIGNED, primary_thumbprint=leaf, secondary_thumbprint=shown or None
            )
            await hub.put(DeviceDraft(device_id, known, enrollment.iot_edge, None))
        return chain
