// A device that prints each message it gets as a JSON line and completes it, or does what its property "act" says:
// reject, or abandon when it is there for the first time. Runs until its standard input ends.
// usage: node c2d_device.js, with CONNECTION and perhaps TRANSPORT in the environment
'use strict';
const { Client } = require('azure-iot-device');
const transports = require('./transports');

async function main() {
  const device = Client.fromConnectionString(process.env.CONNECTION, transports(process.env.TRANSPORT || 'mqtt'));
  const seen = new Set();
  await device.open();
  device.on('message', (message) => {
    const properties = {};
    for (let index = 0; index < message.properties.count(); index += 1) {
      const item = message.properties.getItem(index);
      properties[item.key] = item.value;
    }
    const { messageId, correlationId, contentType, contentEncoding, userId, to, expiryTimeUtc } = message;
    const said = { messageId, correlationId, contentType, contentEncoding, userId, to, expiryTimeUtc };
    const { act } = properties;
    const did = act === 'reject' || (act === 'abandon' && !seen.has(messageId)) ? act : 'complete';
    seen.add(messageId);
    device[did](message, (error) => {
      if (error) throw error;
      const told = { body: message.getData().toString(), ...said, properties };
      console.log(JSON.stringify(act ? { ...told, did } : told));
    });
  });
  console.log('open');
  process.stdin.on('end', () => device.close(() => process.exit(0)));
  process.stdin.resume();
}

main().catch((error) => { console.error(error); process.exit(1); });
