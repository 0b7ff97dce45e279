// Sends messages from devices, each device's one after the other.
// usage: node send.js TRANSPORT COUNT RUN (see transports.js), with {id: connection string} as JSON on standard input
'use strict';
const { Client, Message } = require('azure-iot-device');
const transports = require('./transports');

async function send(connectionString, transport, count, run) {
  const device = Client.fromConnectionString(connectionString, transport);
  await device.open();
  for (let number = 0; number < count; number += 1) {
    const message = new Message(JSON.stringify({ n: number }));
    message.messageId = `${run}-${number}`;
    message.correlationId = `c/${number}&=`;
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.properties.add('run', run);
    message.properties.add('n', String(number));
    message.properties.add('odd key &=', 'odd value +/%é');
    await device.sendEvent(message);
  }
  await device.close();
}

async function main() {
  const [transport, count, run] = process.argv.slice(2);
  let input = '';
  for await (const chunk of process.stdin) input += chunk;
  const kind = transports(transport);
  const devices = Object.values(JSON.parse(input));
  await Promise.all(devices.map((connectionString) => send(connectionString, kind, Number(count), run)));
}

main().catch((error) => { console.error(error); process.exit(1); });
