// The service's side of plug and play, with azure-iothub's DigitalTwinClient.
// usage: node digital_twin.js DEVICE, with HUB_CONNECTION_STRING in the environment; prints one JSON line for each
// step: {read}, {updated: {etag, location, status}}, {refused: {status}}, {command: {payload, status}}.
'use strict';
const { DigitalTwinClient, IoTHubTokenCredentials } = require('azure-iothub');

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

async function main() {
  const device = process.argv[2];
  const client = new DigitalTwinClient(new IoTHubTokenCredentials(process.env.HUB_CONNECTION_STRING));
  const { _response: first, ...read } = await client.getDigitalTwin(device);
  say({ read, etag: first.headers.get('etag') });
  const patch = [{ op: 'add', path: '/thermostat1/targetTemperature', value: 42 }];
  const response = await new Promise((resolve, reject) => {
    client.updateDigitalTwin(device, patch, first.headers.get('etag'), (error, result, answer) => {
      if (error) reject(error); else resolve(answer);
    });
  });
  const { headers, status } = response;
  say({ updated: { etag: headers.get('etag'), location: headers.get('location'), status } });
  await client.updateDigitalTwin(device, patch, first.headers.get('etag'))
    .catch((error) => say({ refused: { status: error.statusCode } }));
  const times = { connectTimeoutInSeconds: 30, responseTimeoutInSeconds: 30 };
  for (const answer of [
    await client.invokeCommand(device, 'reboot', { delay: 3 }, times),
    await client.invokeComponentCommand(device, 'thermostat1', 'getMaxMinReport', 'since', times),
  ]) {
    say({ command: { body: answer._response.bodyAsText, status: answer.xMsCommandStatuscode } });
  }
}

main().catch((error) => { console.error(error); process.exit(1); });
