// Drives every operation of the provisioning service's client. usage: node provisioning_service.js PREFIX,
// with {certificate, registered: [group, id], endorsementKey} as JSON on standard input: PEM, a registered device of a
// group, and the public key of a TPM in base64.
'use strict';
const assert = require('assert');
const { promisify } = require('util');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');

const service = ProvisioningServiceClient.fromConnectionString(process.env.DPS_CONNECTION_STRING);
const prefix = process.argv[2];

async function all(query) {
  const found = [];
  const next = promisify(query.next.bind(query));
  do found.push(...await next()); while (query.hasMoreResults);
  return found;
}

async function refused(status, work) {
  await assert.rejects(work, (error) => error.response.statusCode === status);
}

async function individual() {
  const registrationId = `${prefix}-one`;
  const made = (await service.createOrUpdateIndividualEnrollment({
    registrationId, attestation: { type: 'symmetricKey' }, provisioningStatus: 'enabled', deviceId: `${prefix}-dev`,
    initialTwin: { tags: { a: 1 }, properties: { desired: { b: 2 } } },
  })).responseBody;
  assert(made.attestation.symmetricKey.primaryKey);
  const read = (await service.getIndividualEnrollment(registrationId)).responseBody;
  assert.strictEqual(read.etag, made.etag);
  assert.strictEqual(read.attestation.symmetricKey, undefined);
  const mechanism = (await service.getIndividualEnrollmentAttestationMechanism(registrationId)).responseBody;
  assert.deepStrictEqual(mechanism.symmetricKey, made.attestation.symmetricKey);
  const changed = (await service.createOrUpdateIndividualEnrollment({ ...read, provisioningStatus: 'disabled' })).responseBody;
  assert.strictEqual(changed.provisioningStatus, 'disabled');
  await refused(412, service.createOrUpdateIndividualEnrollment(read));
  await refused(412, service.deleteIndividualEnrollment(read));
  await service.deleteIndividualEnrollment(changed);
  await refused(404, service.getIndividualEnrollment(registrationId));
}

async function chip(endorsementKey) {
  const registrationId = `${prefix}-tpm`;
  const attestation = { type: 'tpm', tpm: { endorsementKey } };
  await service.createOrUpdateIndividualEnrollment({ registrationId, attestation });
  assert.deepStrictEqual((await service.getIndividualEnrollment(registrationId)).responseBody.attestation, attestation);
  const mechanism = (await service.getIndividualEnrollmentAttestationMechanism(registrationId)).responseBody;
  assert.deepStrictEqual(mechanism, attestation);
  await service.deleteIndividualEnrollment(registrationId);
}

async function group(certificate) {
  const enrollmentGroupId = `${prefix}-group`;
  const made = (await service.createOrUpdateEnrollmentGroup({
    enrollmentGroupId, attestation: { type: 'x509', x509: { signingCertificates: { primary: { certificate } } } },
  })).responseBody;
  const read = (await service.getEnrollmentGroup(enrollmentGroupId)).responseBody;
  assert(read.attestation.x509.signingCertificates.primary.info.sha1Thumbprint);
  const mechanism = (await service.getEnrollmentGroupAttestationMechanism(enrollmentGroupId)).responseBody;
  assert.strictEqual(mechanism.type, 'x509');
  const groups = await all(service.createEnrollmentGroupQuery({ query: 'SELECT * FROM enrollmentGroups' }, 2));
  assert(groups.some((one) => one.enrollmentGroupId === enrollmentGroupId));
  await service.deleteEnrollmentGroup(enrollmentGroupId, made.etag);
  await refused(404, service.getEnrollmentGroup(enrollmentGroupId));
}

async function bulk() {
  const enrollments = [1, 2, 3].map((n) => ({ registrationId: `${prefix}-bulk${n}`, attestation: { type: 'symmetricKey' } }));
  const run = promisify(service.runBulkEnrollmentOperation.bind(service));
  assert((await run({ mode: 'create', enrollments })).isSuccessful);
  const again = await run({ mode: 'create', enrollments: enrollments.slice(0, 1) });
  assert.strictEqual(again.errors[0].registrationId, `${prefix}-bulk1`);
  assert.strictEqual(typeof again.errors[0].errorCode, 'number');
  const found = await all(service.createIndividualEnrollmentQuery({ query: 'SELECT * FROM enrollments' }, 2));
  assert.strictEqual(found.filter((one) => one.registrationId.startsWith(`${prefix}-bulk`)).length, 3);
  const etags = found.filter((one) => one.registrationId.startsWith(`${prefix}-bulk`));
  assert((await run({ mode: 'updateIfMatchEtag', enrollments: etags })).isSuccessful);
  assert((await run({ mode: 'delete', enrollments })).isSuccessful);
}

async function registrations([groupId, id]) {
  const query = service.createEnrollmentGroupDeviceRegistrationStateQuery({ query: 'SELECT * FROM enrollments' }, groupId, 1);
  assert.deepStrictEqual((await all(query)).map((one) => one.registrationId), [id]);
  const state = (await service.getDeviceRegistrationState(id)).responseBody;
  assert.strictEqual(state.status, 'assigned');
  await service.deleteDeviceRegistrationState(state);
  await refused(404, service.getDeviceRegistrationState(id));
}

async function main() {
  let input = '';
  for await (const chunk of process.stdin) input += chunk;
  const given = JSON.parse(input);
  await individual();
  await group(given.certificate);
  await bulk();
  await registrations(given.registered);
  await chip(given.endorsementKey);
  console.log('done');
}

main().catch((error) => { console.error(error.stack, error.responseBody); process.exit(1); });
