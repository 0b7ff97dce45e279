"""One hub's domain put together: everything between the stores and the heads."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from muster.core.meters import Meters
from muster.core.outbox import Outbox
from muster.core.resource import ResourceRecord, load_record
from muster.core.throttles import TELEMETRY
from muster.dialect.event_bodies import event_record
from muster.events.model import Source
from muster.events.recorder import EventRecorder, next_epoch
from muster.events.relay import EventRelay
from muster.identity.authenticator import Authenticator
from muster.identity.bearer_gate import BearerGate
from muster.identity.contract import IdentityStore
from muster.identity.network_access import HUB_SETTING, NetworkAccess
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.jobs.transfer import Transfer
from muster.messages.groups import ConsumerGroups
from muster.messages.methods import Methods
from muster.messages.readers import PartitionReaders, Readers
from muster.messages.telemetry import Telemetry
from muster.node.certificates import Certificates, open_certificates
from muster.node.foundation import Foundation
from muster.node.messaging import Messaging, make_messaging, make_queues
from muster.node.metering import open_meters
from muster.sessions.faults import Faults
from muster.sessions.network_grounds import NetworkGrounds
from muster.sessions.several import drain
from muster.sessions.subscriptions import Subscriptions
from muster.sessions.table import SessionTable
from muster.stores.storage import HubStores
from muster.twins.query.service import Queries
from muster.twins.service import Twins


class Parts(NamedTuple):
    """What heads need of a hub."""

    telemetry: Telemetry
    stores: HubStores
    identities: IdentityStore
    certificates: Certificates
    refusals: Refusals
    sessions: SessionTable
    subscriptions: Subscriptions
    registry: Registry
    transfer: Transfer
    authenticator: Authenticator
    bearer: BearerGate
    twins: Twins
    methods: Methods
    readers: PartitionReaders
    messaging: Messaging
    queries: Queries
    meters: Meters
    network: NetworkAccess
    groups: ConsumerGroups
    resource: ResourceRecord
    faults: Faults | None


async def make_parts(base: Foundation) -> Parts:
    """Put the hub together and let its time run. Raises ``HubError`` when a store fails."""
    settings, ambient, name = base.settings, base.ambient, base.hub.name
    meters = await open_meters(base)
    telemetry = await _telemetry(base)
    meters.count_by(TELEMETRY, lambda: telemetry.messages)
    recorder = _recorder(base)
    stores = base.storage.of(name, recorder)
    outbox, identities = stores.outbox, stores.identities
    base.watch(name, identities, base.bus)
    _relay(base, outbox, telemetry)
    bus = base.bus
    refusals = Refusals(ambient, settings.profile, stores.refusals)
    several = base.several
    claims = None if several is None else several.claims(name, ambient)
    sessions = SessionTable(name, identities, bus, ambient, claims)
    network = NetworkAccess(base.kept, HUB_SETTING, refusals, ambient)
    await network.load()
    NetworkGrounds(sessions, network)
    if recorder is not None and Source.CONNECTION in recorder.sources:
        recorder.watch(sessions, outbox, await next_epoch(base.kept, ambient))
    certificates = await open_certificates(
        base.hub, stores.authorities, sessions=sessions, refusals=refusals, bus=bus, ambient=ambient
    )
    base.undo.append(certificates.news.stop)
    bearer = BearerGate(base.issuers, base.decide, ambient, refusals, name)
    queues = make_queues(name, stores.queues, bus, ambient, settings)
    registry = Registry(name, identities, sessions, bus, ambient, queues=queues)
    methods = Methods(registry, sessions, ambient, meters)
    twins, subscriptions = _twins(base, stores, sessions, recorder), Subscriptions(name, stores.subscriptions)
    if several is not None:
        base.undo.append(several.connect(name, sessions, methods))
        drain(sessions, telemetry, subscriptions, twins)
    readers = _readers(base)
    messaging, stop_queues = await make_messaging(name, queues, registry, ambient, settings, meters=meters)
    base.undo.append(stop_queues)
    return Parts(
        telemetry=telemetry,
        stores=stores,
        identities=identities,
        certificates=certificates,
        refusals=refusals,
        sessions=sessions,
        subscriptions=subscriptions,
        registry=registry,
        transfer=Transfer(name, stores.loads, registry, sessions, ambient, recorder=recorder),
        authenticator=certificates.authenticator(identities, bearer if base.issuers else None),
        bearer=bearer,
        twins=twins,
        methods=methods,
        readers=readers,
        messaging=messaging,
        queries=await _queries(base, sessions),
        meters=meters,
        network=network,
        groups=await _groups(base),
        resource=await load_record(base.kept),
        faults=Faults(ambient) if settings.takes_faults else None,
    )


def _twins(base: Foundation, stores: HubStores, sessions: SessionTable, recorder: EventRecorder | None) -> Twins:
    name, several = base.hub.name, base.several
    listener = sessions if several is None else several.desired(name, sessions, stores.twins)
    epoch_of = None if several is None else sessions.epoch_of
    return Twins(name, stores.twins, listener, base.ambient, recorder, epoch_of=epoch_of)


def _readers(base: Foundation) -> PartitionReaders:
    if base.several is None:
        return Readers()
    readers = base.several.readers(base.hub.name)
    base.undo.append(readers.close)
    return readers


async def _groups(base: Foundation) -> ConsumerGroups:
    groups = ConsumerGroups(base.settings.consumer_groups, base.kept, base.ambient)
    await groups.load()
    return groups


async def _telemetry(base: Foundation) -> Telemetry:
    settings, ambient = base.settings, base.ambient
    log = await base.open_log(base.hub.name, base.files.telemetry_database, settings.partitions, ambient.now())
    telemetry = Telemetry(
        log, ambient, retention_seconds=settings.retention_seconds, retention_bytes=settings.retention_bytes
    )
    telemetry.start()
    base.undo.append(telemetry.close)
    return telemetry


def _relay(base: Foundation, outbox: Outbox, telemetry: Telemetry) -> None:
    """Begin to relay events; an earlier run may have left some where none are wanted now."""
    relay = EventRelay(outbox, telemetry, base.ambient)
    relay.start()
    base.undo.append(relay.close)


def _recorder(base: Foundation) -> EventRecorder | None:
    """What records events, if any are wanted."""
    sources = base.settings.events
    return EventRecorder(sources, partial(event_record, base.hub.name), base.ambient) if sources else None


async def _queries(base: Foundation, sessions: SessionTable) -> Queries:
    store = base.storage.queries(sessions, base.settings.indexes)
    base.undo.append(store.close)
    await store.prepare()
    return Queries(base.hub.name, store)
