"""Reads COUNT events with azure-eventhub on its older transport, uamqp, and prints their bodies as JSON.

usage: uamqp_consumer.py COUNT, with the names of `muster env` in the environment.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from azure.eventhub import EventHubConsumerClient


def main() -> None:
    count = int(sys.argv[1])
    bodies: list[str] = []
    client = EventHubConsumerClient.from_connection_string(
        os.environ["EVENTHUB_CONNECTION_STRING"], "second", uamqp_transport=True
    )

    def on_event(_: Any, event: Any) -> None:
        bodies.append(event.body_as_str())
        if len(bodies) == count:
            threading.Thread(target=client.close).start()

    client.receive(on_event, starting_position="-1")
    print(json.dumps(bodies))


if __name__ == "__main__":
    main()
