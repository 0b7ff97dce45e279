// Reads COUNT events of partition 0 with each of several clients and prints what they saw as JSON.
// usage: node read_from.js, with {connection, readers: [{group, start, options, count}]} as JSON on standard input
'use strict';
const { EventHubConsumerClient } = require('@azure/event-hubs');

function read(connection, { group, start, options, count }) {
  const client = new EventHubConsumerClient(group || '$Default', connection, { retryOptions: { maxRetries: 0 } });
  const seen = { sequences: [], last: null, error: null };
  return new Promise((resolve) => {
    const finish = async () => {
      await subscription.close();
      await client.close();
      resolve(seen);
    };
    let done = false;
    const subscription = client.subscribe('0', {
      processEvents: async (events, context) => {
        seen.sequences.push(...events.map((event) => event.sequenceNumber));
        seen.last = context.lastEnqueuedEventProperties || null;
        if (!done && seen.sequences.length >= count) { done = true; setImmediate(finish); }
      },
      processError: async (error) => {
        seen.error = { code: error.code, message: error.message };
        if (!done) { done = true; setImmediate(finish); }
      },
    }, { startPosition: start, maxWaitTimeInSeconds: 5, ...options });
  });
}

async function main() {
  const asked = JSON.parse(require('fs').readFileSync(0));
  const results = [];
  for (const reader of asked.readers) results.push(await read(asked.connection, reader));
  console.log(JSON.stringify(results));
}

main().catch((error) => { console.error(error); process.exit(1); });
