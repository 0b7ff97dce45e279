// A device's twin: reads it, reports, waits for desired changes.
// usage: node twin.js TRANSPORT (see transports.js), with a connection string on standard input; prints one JSON line for each event:
// {event: "twin", desired, reported}, {event: "reported"}, {event: "refused", message}, {event: "desired", delta};
// ends after a delta with "last".
'use strict';
const { Client } = require('azure-iot-device');
const transports = require('./transports');

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function report(twin, patch) {
  return new Promise((resolve, reject) => {
    twin.properties.reported.update(patch, (error) => (error ? reject(error) : resolve()));
  });
}

async function main() {
  let input = '';
  for await (const chunk of process.stdin) input += chunk;
  const device = Client.fromConnectionString(input.trim(), transports(process.argv[2]));
  await device.open();
  const twin = await device.getTwin();
  const { desired, reported } = JSON.parse(JSON.stringify(twin.properties));
  say({ event: 'twin', desired, reported });
  await report(twin, { node: { version: 1, gone: true }, list: [1, 'two'] });
  await report(twin, { node: { gone: null } });
  say({ event: 'reported' });
  await report(twin, { 'bad.key': 1 }).catch((error) => say({ event: 'refused', message: error.message }));
  let first = true;
  const done = new Promise((resolve) => {
    twin.on('properties.desired', (delta) => {
      if (first) { // the SDK begins with what it holds
        first = false;
        say({ event: 'listening' });
        return;
      }
      say({ event: 'desired', delta });
      if (delta.last) resolve();
    });
  });
  await done;
  await device.close();
}

main().catch((error) => { console.error(error); process.exit(1); });
