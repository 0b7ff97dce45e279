// A whole application for SECONDS: every device of DEVICES (JSON: id to connection string) sends telemetry, reports and
// reads its twin, answers methods and takes messages, while a back end with SERVICE drives them all at once. Prints one
// JSON object: what was done, and what went wrong (it must be empty). Telemetry is counted by whoever reads it.
// usage: node application.js, with DEVICES, SERVICE and SECONDS in the environment
'use strict';
const { Client: Device, Message: Telemetry } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Client: Service, Registry } = require('azure-iothub');
const { Message } = require('azure-iot-common');

const SEND_EVERY = 1000, REPORT_EVERY = 5000, CALLERS = 4, QUIET = 30000;
const end = Date.now() + Number(process.env.SECONDS) * 1000;
const problems = [];
const counts = { telemetry: 0, reported: 0, methods: 0, desired: 0, messages: 0, feedback: 0 };
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const wrong = (what, error) => { problems.push(`${what}: ${error && error.message ? error.message : error}`); };

class Peer {
  constructor(id, connectionString) {
    this.id = id;
    this.client = Device.fromConnectionString(connectionString, Mqtt);
    this.received = new Map();
    this.desired = 0;
    this.reported = 0;
    this.sent = 0;
  }

  async open() {
    await this.client.open();
    this.client.on('error', (error) => wrong(`${this.id} lost its connection`, error));
    this.client.on('disconnect', (error) => { if (!this.closing) wrong(`${this.id} was disconnected`, error); });
    this.client.onDeviceMethod('echo', (request, response) => {
      response.send(200, request.payload).catch((error) => wrong(`${this.id} answer`, error));
    });
    this.client.on('message', (message) => {
      this.received.set(message.messageId, (this.received.get(message.messageId) || 0) + 1);
      this.client.complete(message).catch((error) => wrong(`${this.id} complete`, error));
    });
    this.twin = await this.client.getTwin();
    this.twin.on('properties.desired', (patch) => { if (patch.n !== undefined) this.desired = patch.n; });
  }

  async work() {
    let next = Date.now() + Math.random() * SEND_EVERY, report = Date.now() + Math.random() * REPORT_EVERY;
    while (Date.now() < end) {
      await sleep(Math.max(0, Math.min(next, report) - Date.now()));
      if (Date.now() >= next) {
        next += SEND_EVERY;
        const message = new Telemetry(JSON.stringify({ n: this.sent }));
        message.messageId = `${this.id}:${this.sent}`;
        await this.client.sendEvent(message).catch((error) => wrong(`${this.id} telemetry`, error));
        this.sent += 1;
        counts.telemetry += 1;
      } else {
        report += REPORT_EVERY;
        this.reported += 1;
        await new Promise((resolve) => this.twin.properties.reported.update({ n: this.reported }, (error) => {
          if (error) wrong(`${this.id} report`, error);
          resolve();
        }));
        counts.reported += 1;
      }
    }
  }
}

async function drive(peers, number, service, registry, sent) {
  for (let turn = number; Date.now() < end; turn += CALLERS) {
    const peer = peers[turn % peers.length];
    const nth = turn + 1;
    try {
      const { result } = await service.invokeDeviceMethod(peer.id, { methodName: 'echo', payload: { nth } });
      if (result.status !== 200 || result.payload.nth !== nth) wrong(`${peer.id} method`, JSON.stringify(result));
      counts.methods += 1;
      const message = new Message(JSON.stringify({ nth }));
      message.messageId = `c2d-${nth}`;
      message.ack = 'full';
      await service.send(peer.id, message);
      sent.set(message.messageId, peer);
      counts.messages += 1;
      await registry.updateTwin(peer.id, { properties: { desired: { n: nth } } }, '*');
      peer.wanted = nth;
      counts.desired += 1;
    } catch (error) {
      wrong(`${peer.id} back end`, error);
    }
  }
}

async function settled(what) {
  for (const until = Date.now() + QUIET; Date.now() < until; await sleep(100)) if (what()) return;
}

async function main() {
  const connections = JSON.parse(process.env.DEVICES);
  const peers = Object.keys(connections).map((id) => new Peer(id, connections[id]));
  const service = Service.fromConnectionString(process.env.SERVICE);
  const registry = Registry.fromConnectionString(process.env.SERVICE);
  await Promise.all(peers.map((peer) => peer.open()));
  await service.open();
  const confirmed = new Set(), sent = new Map();
  const feedback = await new Promise((resolve, reject) => {  // with a promise it would be one that hides its events
    service.getFeedbackReceiver((error, receiver) => { if (error) reject(error); else resolve(receiver); });
  });
  feedback.on('message', (batch) => {
    for (const record of JSON.parse(batch.getData().toString())) {
      if (record.statusCode !== 'Success') wrong('feedback', JSON.stringify(record));
      confirmed.add(record.originalMessageId);
    }
    feedback.complete(batch, (error) => { if (error) wrong('feedback complete', error); });
  });
  const callers = [...Array(CALLERS).keys()].map((number) => drive(peers, number, service, registry, sent));
  await Promise.all([...peers.map((peer) => peer.work()), ...callers]);
  await settled(() => confirmed.size >= sent.size && peers.every((peer) => !peer.wanted || peer.desired === peer.wanted));
  counts.feedback = confirmed.size;
  for (const [id, peer] of sent) {
    if (peer.received.get(id) !== 1) wrong(`${peer.id} got ${id}`, `${peer.received.get(id) || 0} times`);
    if (!confirmed.has(id)) wrong(`${peer.id} ${id}`, 'no feedback');
  }
  for (const peer of peers) {
    if (peer.wanted && peer.desired !== peer.wanted) wrong(`${peer.id} desired`, `${peer.desired}, not ${peer.wanted}`);
    const { responseBody } = await registry.getTwin(peer.id);
    if (responseBody.properties.reported.n !== (peer.reported || undefined)) wrong(`${peer.id} reported`, 'differs');
  }
  console.log(JSON.stringify({ counts, problems: problems.slice(0, 20), sent: Object.fromEntries(peers.map((p) => [p.id, p.sent])) }));
  for (const peer of peers) peer.closing = true;
  await Promise.all(peers.map((peer) => peer.client.close()));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
