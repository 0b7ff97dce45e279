// usage: node throttled_c2d.js COUNT DEVICE...: sends so many messages at once, to the devices in turn
'use strict';

const { Client } = require('azure-iothub');
const { Message } = require('azure-iot-common');

const [count, ...devices] = process.argv.slice(2);
const client = Client.fromConnectionString(process.env.SERVICE_CONNECTION_STRING);

async function main() {
  await client.open();
  const numbers = [...Array(Number(count)).keys()];
  await Promise.all(numbers.map((number) => client.send(devices[number % devices.length], new Message('x'))));
  await client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
