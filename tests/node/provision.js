// Provisions a device, then sends a message to the hub that it was given, in one run.
// usage: node provision.js http|mqtt|mqttws|amqp|amqpws, with {registrationId, key | cert + pem, payload} as JSON on standard input;
// prints the registration as JSON. DPS_HOST and DPS_ID_SCOPE are from the environment.
'use strict';
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');

const TRANSPORTS = {
  http: () => new (require('azure-iot-provisioning-device-http').Http)(),
  mqtt: () => new (require('azure-iot-provisioning-device-mqtt').Mqtt)(),
  mqttws: () => new (require('azure-iot-provisioning-device-mqtt').MqttWs)(),
  amqp: () => new (require('azure-iot-provisioning-device-amqp').Amqp)(),
  amqpws: () => new (require('azure-iot-provisioning-device-amqp').AmqpWs)(),
};

async function main() {
  let input = '';
  for await (const chunk of process.stdin) input += chunk;
  const { registrationId, key, cert, pem, payload } = JSON.parse(input);
  const security = key ? new SymmetricKeySecurityClient(registrationId, key)
    : new X509Security(registrationId, { cert, key: pem });
  const { DPS_HOST, DPS_ID_SCOPE } = process.env;
  const provisioning = ProvisioningDeviceClient.create(DPS_HOST, DPS_ID_SCOPE, TRANSPORTS[process.argv[2]](), security);
  if (payload) provisioning.setProvisioningPayload(payload);
  const state = await provisioning.register();
  const own = key ? `SharedAccessKey=${key}` : 'x509=true';
  const device = Client.fromConnectionString(`HostName=${state.assignedHub};DeviceId=${state.deviceId};${own}`, Mqtt);
  if (cert) await device.setOptions({ cert, key: pem });
  await device.open();
  await device.sendEvent(new Message('provisioned'));
  await device.close();
  console.log(JSON.stringify(state));
}

main().catch((error) => { console.error(error.name, error.message, error.responseBody); process.exit(1); });
