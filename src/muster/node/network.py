"""Network rules in a node: connections that are no sessions end too when the rules of their hub are changed."""

from __future__ import annotations

from functools import partial

from muster.heads.amqp import AmqpHead
from muster.heads.amqp_network import end_refused
from muster.node.hub import OpenHub
from muster.node.hubs import Hubs


def end_refused_when_changed(hubs: Hubs, head: AmqpHead) -> None:
    """From now on see to it, for the hubs that are open and those that will be."""

    def watch(hub: OpenHub) -> None:
        hub.parts.network.when_changed(partial(end_refused, head, hub.amqp))

    for hub in hubs.all():
        watch(hub)
    hubs.when_opened(watch)
