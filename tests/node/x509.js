// Sends a message from a device or module that proves itself with a certificate.
// usage: node x509.js TRANSPORT (see transports.js), with [{connectionString, cert, key}, ...] as JSON on standard input
'use strict';
const { Client, ModuleClient, Message, X509AuthenticationProvider } = require('azure-iot-device');
const transports = require('./transports');

// ModuleClient takes no certificate with a connection string: it is given the provider that devices have.
function client({ connectionString, cert, key }, transport) {
  if (!connectionString.includes('ModuleId=')) return Client.fromConnectionString(connectionString, transport);
  const part = (name) => connectionString.split(`${name}=`)[1].split(';')[0];
  const [host, deviceId, moduleId] = ['HostName', 'DeviceId', 'ModuleId'].map(part);
  return ModuleClient.fromAuthenticationProvider(
    new X509AuthenticationProvider({ host, deviceId, moduleId, x509: { cert, key } }), transport);
}

async function send(one, transport) {
  const device = client(one, transport);
  await device.setOptions({ cert: one.cert, key: one.key });
  await device.open();
  await device.sendEvent(new Message('by certificate'));
  const twin = await device.getTwin();
  if (twin.properties.desired.$version !== 1) throw new Error('no twin');
  await device.close();
}

async function main() {
  let input = '';
  for await (const chunk of process.stdin) input += chunk;
  const transport = transports(process.argv[2]);
  for (const one of JSON.parse(input)) await send(one, transport);
}

main().catch((error) => { console.error(error.name, error.message); process.exit(1); });
