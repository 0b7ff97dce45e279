// A device that does what it is told while its connection is made to fail, and says what became of it, a JSON line each.
// usage: node reconnect.js mqtt|mqtt-ws|amqp|amqp-ws|http, with CONNECTION in the environment; with READ_AGAIN there too it
// reads its twin whenever it has connected; with TOKEN_SECONDS its tokens live so long, and are put anew at half of that.
// Lines on standard input:
// {"send": text, "properties": {...}}: telemetry; answers {"sent": text}, or {"failed": text, "name": ...}.
// {"report": patch}: reported properties; answers {"reported": patch}.
// It says {"command": text} for each message that it has completed, {"desired": patch} for each change, and answers the
// method "echo". Ends with its standard input.
'use strict';
const readline = require('readline');
const { Client, Message, SharedAccessKeyAuthenticationProvider } = require('azure-iot-device');

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function transport(name) {
  if (name === 'http') return require('azure-iot-device-http').Http;
  const kinds = require(`azure-iot-device-${name.split('-')[0]}`);
  return { mqtt: kinds.Mqtt, 'mqtt-ws': kinds.MqttWs, amqp: kinds.Amqp, 'amqp-ws': kinds.AmqpWs }[name];
}

async function send(device, body, properties = {}) {
  const message = new Message(body);
  Object.entries(properties).forEach(([key, value]) => message.properties.add(key, value));
  await device.sendEvent(message).then(() => say({ sent: body }), (error) => say({ failed: body, name: error.name }));
}

async function main() {
  const name = process.argv[2];
  const seconds = Number(process.env.TOKEN_SECONDS || 3600);
  const device = Client.fromAuthenticationProvider(
    SharedAccessKeyAuthenticationProvider.fromConnectionString(process.env.CONNECTION, seconds, seconds / 2), transport(name));
  device.on('error', (error) => say({ error: error.name, message: error.message }));
  device.on('disconnect', (error) => say({ disconnect: String(error && error.message) }));
  await device.open();
  device.on('message', (message) => {
    device.complete(message, (error) => { if (!error) say({ command: message.getData().toString() }); });
  });
  let twin;
  if (name !== 'http') {
    device.onDeviceMethod('echo', (request, response) => response.send(200, request.payload).catch(() => {}));
    twin = await device.getTwin();
    twin.on('properties.desired', (patch) => say({ desired: patch }));
    if (process.env.READ_AGAIN) device.on('connect', () => device.getTwin().catch(() => {}));
  }
  say({ open: true });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { send: body, properties, report } = JSON.parse(line);
    if (report) twin.properties.reported.update(report, (error) => say(error ? { failed: report, name: error.name } : { reported: report }));
    else send(device, body, properties);
  }
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
