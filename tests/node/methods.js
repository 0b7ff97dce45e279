// A device (or, with MODULE as the argument, a module) that answers the methods "echo" and "count" and never "mute".
// Runs until its standard input ends.  usage: node methods.js [module], with CONNECTION and perhaps TRANSPORT in the environment
'use strict';
const { Client, ModuleClient } = require('azure-iot-device');
const transports = require('./transports');

async function main() {
  const kind = process.argv[2] === 'module' ? ModuleClient : Client;
  const device = kind.fromConnectionString(process.env.CONNECTION, transports(process.env.TRANSPORT || 'mqtt'));
  const on = (name, handler) => (device.onDeviceMethod || device.onMethod).call(device, name, handler);
  let count = 0;
  await device.open();
  on('echo', (request, response) => {
    response.send(207, { name: request.methodName, given: request.payload }, (error) => { if (error) throw error; });
  });
  on('count', (request, response) => {
    count += 1;
    response.send(200, count, (error) => { if (error) throw error; });
  });
  on('mute', () => console.log('muted'));
  process.stdin.on('end', () => device.close(() => process.exit(0)));
  process.stdin.resume();
}

main().catch((error) => { console.error(error); process.exit(1); });
