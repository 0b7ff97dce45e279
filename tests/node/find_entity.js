// Finds the Event Hubs-compatible entity of a hub by the redirect, as the published helper for JavaScript does:
// SASL PLAIN, a receiver on messages/events/$management, and the error that follows its attach.
// usage: node find_entity.js HOST PORT USER, with the token on standard input
'use strict';
const { Connection, ReceiverEvents } = require('rhea-promise');

async function main() {
  const [host, port, username] = process.argv.slice(2);
  const password = require('fs').readFileSync(0, 'utf8');
  const connection = new Connection({
    host, hostname: host, port: Number(port), username, password, transport: 'tcp', reconnect: false, idle_time_out: 60000,
  });
  await connection.open();
  const receiver = await connection.createReceiver({ source: { address: `amqps://${host}/messages/events/$management` } });
  const error = await new Promise((resolve) => receiver.on(ReceiverEvents.receiverError, (context) => resolve(context.receiver.error)));
  const [, entity] = error.info.address.match(/:\d+\/(.*)\/\$management/i);
  console.log(JSON.stringify({ condition: error.condition, host: error.info.hostname, port: error.info.port, entity }));
  await connection.close();
}

main().catch((error) => { console.error(error); process.exit(1); });
