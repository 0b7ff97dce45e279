// A device on HTTPS: sends a message and a batch, asks for a place for a file, receives what a service sends, and completes, rejects or abandons it.
// usage: node http_device.js RUN, with {connectionString, cert, key, files} as JSON on standard input (cert and key for a
// device with a certificate, files where the hub has a place for them) and HUB_CONNECTION_STRING in the environment. Prints what it saw as JSON.
'use strict';
const { Client, Message } = require('azure-iot-device');
const { Http } = require('azure-iot-device-http');
const service = require('azure-iothub').Client.fromConnectionString(process.env.HUB_CONNECTION_STRING);
const { Message: Command } = require('azure-iot-common');

const refusal = (promise) => promise.then(() => 'none', (error) => error.name);

function telemetry(run, number) {
  const message = new Message(JSON.stringify({ n: number }));
  message.properties.add('run', run);
  message.properties.add('N', String(number));
  return message;
}

async function command(deviceId, name) {
  const one = new Command(name);
  one.messageId = name;
  one.correlationId = `c-${name}`;
  one.properties.add('Name', name);
  await service.send(deviceId, one);
}

// What the device got, in order, until it has settled each of `names` in the way its name says.
function received(device, names) {
  return new Promise((resolve, reject) => {
    const seen = [];
    let left = names.length;
    const settled = (error) => {
      if (error) reject(error);
      left -= 1;
      if (left === 0) resolve(seen);
    };
    device.on('error', reject);
    device.on('message', (message) => {
      const name = message.getData().toString();
      const { messageId, correlationId, to } = message;
      seen.push({ name, messageId, correlationId, to, property: message.properties.getItem(0) });
      const first = seen.filter((one) => one.name === name).length === 1;
      if (name === 'abandon' && first) device.abandon(message, (error) => { if (error) reject(error); });
      else if (name === 'reject') device.reject(message, settled);
      else device.complete(message, settled);
    });
  });
}

async function main() {
  const run = process.argv[2];
  let input = '';
  for await (const chunk of process.stdin) input += chunk;
  const { connectionString, cert, key, files } = JSON.parse(input);
  const device = Client.fromConnectionString(connectionString, Http);
  await device.setOptions({ interval: 1, ...(cert ? { cert, key } : {}) });
  await device.open();
  const first = telemetry(run, 0);
  Object.assign(first, { messageId: 'm-0', correlationId: 'c/0', contentType: 'application/json', contentEncoding: 'utf-8' });
  await device.sendEvent(first);
  await device.sendEventBatch([telemetry(run, 1), telemetry(run, 2)]);
  if (files) {
    const place = await device.getBlobSharedAccessSignature('file');
    await device.notifyBlobUploadStatus(place.correlationId, false, 500, 'gave up');
  }
  const large = await refusal(device.sendEvent(new Message('x'.repeat(262145))));

  const deviceId = connectionString.split('DeviceId=')[1].split(';')[0];
  await service.open();
  const names = ['complete', 'reject', 'abandon'];
  for (const name of names) await command(deviceId, name);
  const seen = await received(device, names);
  const lost = new Message('');
  lost.lockToken = '00000000-0000-4000-8000-000000000000';
  const again = await refusal(device.complete(lost));

  const stranger = Client.fromConnectionString(
    connectionString.replace(deviceId, 'nobody').replace('x509=true', 'SharedAccessKey=AAAA'), Http);
  const unknown = await refusal(stranger.sendEvent(new Message('x')));
  console.log(JSON.stringify({ seen, large, again, unknown }));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
