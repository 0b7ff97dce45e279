// The transports of azure-iot-device by name: mqtt, mqtt-ws, amqp, amqp-ws.
'use strict';
const kinds = {
  mqtt: () => require('azure-iot-device-mqtt').Mqtt,
  'mqtt-ws': () => require('azure-iot-device-mqtt').MqttWs,
  amqp: () => require('azure-iot-device-amqp').Amqp,
  'amqp-ws': () => require('azure-iot-device-amqp').AmqpWs,
};

module.exports = (name) => {
  if (!(name in kinds)) throw new Error(`no transport ${name}, give one of ${Object.keys(kinds).join(', ')}`);
  return kinds[name]();
};
