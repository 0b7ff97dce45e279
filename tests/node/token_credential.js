// azure-iothub with @azure/identity's client secret credential against the issuer of issuer.mjs.
// usage: node token_credential.js registry|c2d|provisioning DEVICE; the environment has HOST, AUTHORITY, TENANT, CLIENT and SECRET.
// Prints one JSON line for each step: {did: name} or {refused: name, message, status}
'use strict';
const { ClientSecretCredential } = require('@azure/identity');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { Registry, Client } = require('azure-iothub');

const { HOST, AUTHORITY, TENANT, CLIENT, SECRET } = process.env;
const [what, device] = process.argv.slice(2);
const credential = new ClientSecretCredential(TENANT, CLIENT, SECRET, {
  authorityHost: AUTHORITY,
  disableInstanceDiscovery: true,
});

async function step(did, work) {
  try {
    await work();
    console.log(JSON.stringify({ did }));
  } catch (error) {
    const status = error.response && error.response.statusCode;
    console.log(JSON.stringify({ refused: did, name: error.name, status, message: String(error.message).slice(0, 300) }));
  }
}

async function registry() {
  const there = Registry.fromTokenCredential(HOST, credential);
  await step('get', () => there.get(device));
  await step('getTwin', () => there.getTwin(device));
  await step('query', () => there.createQuery('SELECT * FROM devices').nextAsTwin());
  await step('updateTwin', () => there.updateTwin(device, { tags: { from: 'node' } }, '*'));
  await step('create', () => there.create({ deviceId: `${device}-new` }));
}

async function c2d() {
  const there = Client.fromTokenCredential(HOST, credential);
  await step('open', () => there.open());
  await step('send', () => there.send(device, 'hello from node'));
  await step('feedback', () => there.getFeedbackReceiver());
  await step('files', () => there.getFileNotificationReceiver());
  await step('close', () => there.close());
}

async function provisioning() {
  const there = ProvisioningServiceClient.fromTokenCredential(HOST, credential);
  const enrollment = { registrationId: device, attestation: { type: 'symmetricKey' } };
  await step('put', () => there.createOrUpdateIndividualEnrollment(enrollment));
  await step('get', () => there.getIndividualEnrollment(device));
  await step('query', () => there.createIndividualEnrollmentQuery({ query: 'SELECT * FROM enrollments' }).next());
  await step('keys', () => there.getIndividualEnrollmentAttestationMechanism(device));
  await step('groups', () => there.createEnrollmentGroupQuery({ query: 'SELECT * FROM enrollmentGroups' }).next());
  await step('delete', () => there.deleteIndividualEnrollment(device));
}

({ registry, c2d, provisioning })[what]().finally(() => process.exit());
