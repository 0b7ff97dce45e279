// A device that prints each message it gets as a JSON line and completes it. Runs until its standard input ends.
// usage: node c2d_device.js, with CONNECTION in the environment
'use strict';
const { Client } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

async function main() {
  const device = Client.fromConnectionString(process.env.CONNECTION, Mqtt);
  await device.open();
  device.on('message', (message) => {
    const properties = {};
    for (let index = 0; index < message.properties.count(); index += 1) {
      const item = message.properties.getItem(index);
      properties[item.key] = item.value;
    }
    const { messageId, correlationId, contentType, contentEncoding, userId, to, expiryTimeUtc } = message;
    const said = { messageId, correlationId, contentType, contentEncoding, userId, to, expiryTimeUtc };
    device.complete(message, (error) => {
      if (error) throw error;
      console.log(JSON.stringify({ body: message.getData().toString(), ...said, properties }));
    });
  });
  console.log('open');
  process.stdin.on('end', () => device.close(() => process.exit(0)));
  process.stdin.resume();
}

main().catch((error) => { console.error(error); process.exit(1); });
