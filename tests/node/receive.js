// Prints the first COUNT events of a run as JSON lines, from the beginning of every partition.
// usage: node receive.js amqp|amqp-ws COUNT RUN, with EVENTHUB_CONNECTION_STRING in the environment
'use strict';
const { EventHubConsumerClient, earliestEventPosition } = require('@azure/event-hubs');
const WebSocket = require('ws');

async function main() {
  const [transport, count, run] = process.argv.slice(2);
  const options = transport === 'amqp' ? {} : { webSocketOptions: { webSocket: WebSocket } };
  const reader = new EventHubConsumerClient('$Default', process.env.EVENTHUB_CONNECTION_STRING, options);
  let left = Number(count);
  await new Promise((resolve, reject) => {
    reader.subscribe({
      processEvents: async (events, context) => {
        for (const event of events) {
          if (!event.properties || event.properties.run !== run) continue;
          console.log(JSON.stringify({
            partition: context.partitionId,
            sequence: event.sequenceNumber,
            offset: event.offset,
            enqueued: event.enqueuedTimeUtc,
            body: event.body,
            properties: event.properties,
            messageId: event.messageId,
            correlationId: event.correlationId,
            contentType: event.contentType,
            device: event.systemProperties['iothub-connection-device-id'],
            source: event.systemProperties['iothub-message-source'],
          }));
          left -= 1;
          if (left === 0) resolve();
        }
      },
      processError: async (error) => reject(error),
    }, { startPosition: earliestEventPosition });
  });
  await reader.close();
}

main().catch((error) => { console.error(error); process.exit(1); });
