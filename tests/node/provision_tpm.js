// Provisions a device with a TPM, then sends a message to the hub that it was given with a token that the TPM signed.
// usage: node provision_tpm.js http|amqp|amqpws, with {registrationId, tpm: {host, port}} as JSON on standard input;
// prints the registration as JSON. DPS_HOST and DPS_ID_SCOPE are from the environment.
'use strict';
const { promisify } = require('util');
const { SharedAccessSignature } = require('azure-iot-common');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { TpmSecurityClient } = require('azure-iot-security-tpm');
const { Tpm } = require('tss.js');

const TRANSPORTS = {
  http: () => new (require('azure-iot-provisioning-device-http').Http)(),
  amqp: () => new (require('azure-iot-provisioning-device-amqp').Amqp)(),
  amqpws: () => new (require('azure-iot-provisioning-device-amqp').AmqpWs)(),
};

async function main() {
  let input = '';
  for await (const chunk of process.stdin) input += chunk;
  const { registrationId, tpm } = JSON.parse(input);
  const security = new TpmSecurityClient(registrationId, new Tpm(true, tpm.host, tpm.port));
  const { DPS_HOST, DPS_ID_SCOPE } = process.env;
  const provisioning = ProvisioningDeviceClient.create(DPS_HOST, DPS_ID_SCOPE, TRANSPORTS[process.argv[2]](), security);
  const { registrationState: state } = await provisioning.register();  // with a TPM it gives the whole answer
  const sign = promisify(security.signWithIdentity.bind(security));
  const token = await promisify(SharedAccessSignature.createWithSigningFunction)(
    { host: state.assignedHub, deviceId: state.deviceId }, Math.floor(Date.now() / 1000) + 3600,
    (data, done) => sign(data).then((signature) => done(null, signature), done));
  const device = Client.fromSharedAccessSignature(token.toString(), Mqtt);
  await device.open();
  await device.sendEvent(new Message('provisioned'));
  await device.close();
  console.log(JSON.stringify(state));
  process.exit(0);  // the connection to the TPM stays open
}

main().catch((error) => { console.error(error.name, error.message, error.responseBody); process.exit(1); });
