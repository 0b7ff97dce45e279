"""Reads events the way `az iot hub monitor-events` does, with uamqp: PLAIN, redirect, management, filter by time.

usage: uamqp_monitor.py TOKEN COUNT, with the names of `muster env` in the environment; prints JSON lines.
"""

from __future__ import annotations

import json
import os
import sys
from urllib.parse import quote

import uamqp
from uamqp import authentication, errors

FILTER = b"apache.org:selector-filter:string"


def entity_of(host: str, token: str) -> tuple[str, str]:
    """The host and the entity that the hub redirects to."""
    user = f"service@sas.root.{host.partition('.')[0]}"
    source = f"amqps://{quote(user, safe='')}:{quote(token, safe='')}@{host}/messages/events/$management"
    client = uamqp.ReceiveClient(source, timeout=20_000, prefetch=1)
    try:
        client.receive_message_batch(max_batch_size=1)
    except errors.LinkRedirect as redirect:
        address = redirect.address.decode()
        return redirect.hostname.decode(), address.replace("amqps://", "").split("/")[1]
    finally:
        client.close()
    raise SystemExit("there was no redirect")


def main() -> None:
    token, count = sys.argv[1], int(sys.argv[2])
    host, entity = entity_of(os.environ["HUB_HOST"], token)
    parts = dict(item.split("=", 1) for item in os.environ["SERVICE_CONNECTION_STRING"].split(";"))

    def auth() -> authentication.SASTokenAuth:
        return authentication.SASTokenAuth.from_shared_access_key(
            f"sb://{host}/{entity}", parts["SharedAccessKeyName"], parts["SharedAccessKey"]
        )

    with uamqp.AMQPClient(f"amqps://{host}/{entity}/$management", auth=auth()) as client:
        answer = client.mgmt_request(
            uamqp.Message(application_properties={"name": entity}),
            b"READ",
            op_type=b"com.microsoft:eventhub",
            status_code_field=b"status-code",
            description_fields=b"status-description",
            timeout=20_000,
        )
    partitions = answer.get_data()[b"partition_ids"]
    seen = 0
    for partition in partitions:
        source = uamqp.address.Source(
            f"amqps://{host}/{entity}/ConsumerGroups/$Default/Partitions/{partition.decode()}"
        )
        source.set_filter(b"amqp.annotation.x-opt-enqueuedtimeutc > 1000")
        with uamqp.ReceiveClient(source, auth=auth(), timeout=2_000, prefetch=0) as receiver:
            for message in receiver.receive_message_batch(max_batch_size=count, timeout=3_000):
                annotations = message.annotations
                print(
                    json.dumps(
                        {
                            "device": annotations[b"iothub-connection-device-id"].decode(),
                            "body": b"".join(message.get_data()).decode(),
                            "partition": partition.decode(),
                        }
                    )
                )
                seen += 1
        if seen == count:
            return
    raise SystemExit(f"only {seen} of {count} events came")


if __name__ == "__main__":
    main()
