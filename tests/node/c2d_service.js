// A service: sends what it reads as JSON lines ({device, body, messageId, ack, properties}), prints {sent: id} or
// {refused: name, id} for each, and every feedback record as {feedback: ...}, completing its message.
// usage: node c2d_service.js amqp|amqp-ws, with SERVICE_CONNECTION_STRING in the environment
'use strict';
const readline = require('readline');
const { AmqpWs, Client } = require('azure-iothub');
const { Message } = require('azure-iot-common');

// With a promise they give a receiver that hides its events.
const receiver = (ask) => new Promise((resolve, reject) => {
  ask((error, found) => { if (error) reject(error); else resolve(found); });
});
const say = (what) => console.log(JSON.stringify(what));

async function main() {
  const connection = process.env.SERVICE_CONNECTION_STRING;
  const transport = process.argv[2] === 'amqp-ws' ? AmqpWs : undefined;
  const service = Client.fromConnectionString(connection, transport);
  await service.open();
  const feedback = await receiver((done) => service.getFeedbackReceiver(done));
  feedback.on('message', (message) => {
    const records = JSON.parse(message.getData().toString('utf-8'));
    feedback.complete(message, (error) => {
      if (error) throw error;
      for (const record of records) say({ feedback: record, type: message.contentType });
    });
  });
  const files = await receiver((done) => service.getFileNotificationReceiver(done));
  files.on('message', (message) => say({ file: message.getData().toString() }));
  say({ open: true });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const wanted = JSON.parse(line);
    const message = new Message(wanted.body);
    message.messageId = wanted.messageId;
    message.correlationId = wanted.correlationId;
    message.contentType = wanted.contentType;
    message.contentEncoding = wanted.contentEncoding;
    message.expiryTimeUtc = wanted.expiryTimeUtc;
    if (wanted.ack) message.ack = wanted.ack;
    for (const [name, value] of Object.entries(wanted.properties || {})) message.properties.add(name, value);
    try {
      await service.send(wanted.device, message);
      say({ sent: wanted.messageId });
    } catch (error) {
      say({ refused: error.name, id: wanted.messageId });
    }
  }
  await service.close();
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
