"""Hubs as resources: made, shown, listed, changed and removed (``IotHubResource`` of the resource manager)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from muster.core.ambient import Ambient
from muster.core.audit import Note
from muster.core.errors import ARGUMENT_INVALID, PRECONDITION_FAILED, HubError
from muster.core.resource import DEFAULT_GROUP, Resource
from muster.dialect.arm import HUBS, list_body, resource_id
from muster.dialect.arm_hubs import HOSTS_TAG, hub_body, read_changes, read_location, read_tags
from muster.dialect.json_body import Members, check_text
from muster.dialect.network_bodies import changed_network
from muster.dialect.policy_bodies import read_policies
from muster.heads.arm.access import Access
from muster.heads.arm.answers import GROUP, HUB, SUBSCRIPTION, ArmRows, hub_id
from muster.heads.arm.keys import write_policies
from muster.heads.arm.long_operations import PATH, LongOperations, mark
from muster.heads.arm.managed import ManagedHub, ManagedNode
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.kept_policies import PolicyDraft
from muster.identity.network import NetworkRules
from muster.identity.policies import BUILT_IN, OWNER

_BETWEEN = re.compile(r"[,\s]+")


class HubResources:
    """The hubs of ``node``. Subscription and group of a path are names only: a hub is found by its own."""

    def __init__(self, node: ManagedNode, access: Access, work: LongOperations, ambient: Ambient) -> None:
        self._node = node
        self._ambient = ambient
        self._access = access
        self._work = work

    def table(self, rows: ArmRows) -> list[Operation]:
        """The rows for the operation table."""
        return [
            rows.judged("GET", f"{SUBSCRIPTION}/IotHubs", self.list),
            rows.judged("GET", f"{GROUP}/IotHubs", self.list),
            rows.of_hub("GET", "", self.get),
            rows.judged("PUT", HUB, self.put, "hub.put"),
            rows.of_hub("PATCH", "", self.patch, "hub.tags"),
            rows.of_node("DELETE", HUB, self.delete, "hub.delete"),
            rows.of_node("GET", f"{HUB}/{PATH}/{{operation}}", self._work.answer),
            rows.of_node("POST", f"{SUBSCRIPTION}/checkNameAvailability", self.check_name),
        ]

    async def list(self, call: Call) -> Response:
        """The hubs that the caller may manage; of one resource group those that were made in it."""
        reach = await self._access.judge(call)
        group = call.parameters.get("group")
        return json_answer(
            list_body(
                [
                    hub_body(one.describe(), resource_id(call.parameters["subscription"], own, HUBS, one.name))
                    for one in self._node.managed()
                    for own in (one.resource.resource.group,)
                    if reach.covers(one.name) and (group is None or group.lower() == own.lower())
                ]
            )
        )

    async def get(self, call: Call, hub: ManagedHub) -> Response:
        """One."""
        return json_answer(hub_body(hub.describe(), hub_id(call, hub.name)))

    async def put(self, call: Call) -> Response:
        """Change a hub, 200, or begin to make one, 201. Raises ``HubError``: 400310 for a property that cannot be set,
        400004 for a value, name or host name that cannot be, 403310, 412001 when ``If-Match`` has another version."""
        found = self._access.find(call.parameters["hub"])
        name = call.parameters["hub"].lower() if found is None else found.name
        call.hub = "" if found is None else name
        (await self._access.judge(call, name)).require(name)
        body = await call.json_object()
        if found is None:
            return self._begin(call, name, body)
        match = call.if_match()
        if match is not None and match.version not in {None, found.resource.resource.version}:
            raise HubError(PRECONDITION_FAILED, f"The hub {name} was changed meanwhile, get it again.")
        await self._change(call, found, body)
        return await self.get(call, found)

    async def _change(self, call: Call, hub: ManagedHub, body: Members) -> None:
        """All is read before anything is changed, and what may be refused still goes first."""
        record, properties, note = hub.resource, body.members("properties"), call.note(f"hubs/{hub.name}")
        wanted = read_changes(body.whole, hub_body(hub.describe(), hub_id(call, hub.name)), new=False)
        rules = changed_network(properties, hub.network.rules, hub=True)
        policies = read_policies(properties, BUILT_IN[OWNER])
        given, switches = read_tags(body), wanted.pop("switches", None)
        if policies is not None:
            await write_policies(hub.policies, policies, self._ambient, call.note("policies"))
        if wanted:
            await hub.change(wanted, note)
        if switches:
            await hub.switches.set(switches, note)
        if rules is not None:
            await hub.network.change(rules, None, call.note("network"))
        tags = record.resource.tags if given is None else given
        if wanted or switches or policies or rules is not None or tags != record.resource.tags:
            await record.change(note, tags=tags)

    async def patch(self, call: Call, hub: ManagedHub) -> Response:
        """Set the tags. Raises ``HubError`` 400004."""
        tags = read_tags(await call.json_object())
        if tags is not None:
            await hub.resource.change(call.note(f"hubs/{hub.name}"), tags=tags)
        return await self.get(call, hub)

    async def delete(self, call: Call) -> Response:
        """Begin to remove a hub with all that it has: 202; 204 when there is none. Raises ``HubError`` 400003 for the
        first hub and those of the settings."""
        found = self._access.find(call.parameters["hub"])
        if found is None:
            return Response(status=204)
        self._node.removable(found.name)
        operation = self._work.begin(
            f"hub {found.name}", partial(self._node.remove, found.name, call.note(f"hubs/{found.name}"))
        )
        return mark(Response(status=202), call, operation)

    async def check_name(self, call: Call) -> Response:
        """Whether a hub of that name could be made, and if not, why."""
        body = await call.json_object()
        name = body.needed_text("name").lower()
        told: dict[str, Any] = {"nameAvailable": True}
        try:
            self._node.check(name, {"hostnames": (self._node.default(name).host,)})
        except HubError as error:
            taken = self._access.find(name) is not None
            told = {
                "nameAvailable": False,
                "reason": "AlreadyExists" if taken else "Invalid",
                "message": error.message,
            }
        return json_answer(told)

    def _begin(self, call: Call, name: str, body: Members) -> Response:
        plain = self._node.default(name)
        members = read_changes(body.whole, hub_body(plain, hub_id(call, name)), new=True)
        tags = read_tags(body) or {}
        hosts = [host for host in _BETWEEN.split(tags.get(HOSTS_TAG, "")) if host]
        if "switches" in members:
            members["switches"] = plain.switches._replace(**members["switches"])
        members["hostnames"] = tuple(hosts) or (plain.host,)
        group = check_text(call.parameters["group"] or DEFAULT_GROUP, "resourceGroupName")
        if len(group) > 90:
            raise HubError(ARGUMENT_INVALID, "resourceGroupName has more than 90 characters.")
        self._node.check(name, members)
        rules = changed_network(body.members("properties"), plain.network, hub=True)
        policies = read_policies(body.members("properties"), BUILT_IN[OWNER])
        resource = Resource(group, read_location(body), tags)
        making = partial(
            self._make, name, members, resource, rules=rules, policies=policies, note=call.note(f"hubs/{name}")
        )
        operation = self._work.begin(f"hub {name}", making)
        known = {member: value for member, value in members.items() if hasattr(plain, member)}
        described = replace(plain, resource=resource, host=members["hostnames"][0], **known)
        answer = hub_body(described, hub_id(call, name), state="Activating", done="Accepted")
        return mark(json_answer(answer, 201), call, operation)

    async def _make(
        self,
        name: str,
        members: dict[str, Any],
        resource: Resource,
        *,
        rules: NetworkRules | None,
        policies: Mapping[str, PolicyDraft] | None,
        note: Note,
    ) -> None:
        await self._node.add(name, members, note)
        made = self._access.find(name)
        if made is not None:
            if policies is not None:
                await write_policies(made.policies, policies, self._ambient, note)
            if rules is not None:
                await made.network.change(rules, None, note)
            await made.resource.change(note, group=resource.group, location=resource.location, tags=resource.tags)
