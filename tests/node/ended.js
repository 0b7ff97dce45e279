// A device that is connected and does not try again; prints "open", then "disconnect" when the hub has ended it.
// usage: node ended.js TRANSPORT (see transports.js), with CONNECTION in the environment
'use strict';
const { Client } = require('azure-iot-device');
const { NoRetry } = require('azure-iot-common');
const transports = require('./transports');

async function main() {
  const device = Client.fromConnectionString(process.env.CONNECTION, transports(process.argv[2]));
  device.setRetryPolicy(new NoRetry());
  device.on('disconnect', () => { console.log('disconnect'); process.exit(0); });
  device.on('error', () => {});
  await device.open();
  device.on('message', () => {});
  await device.getTwin();
  console.log('open');
}

main().catch((error) => { console.error(error); process.exit(1); });
