// Asks the registry until it is throttled, prints how, waits as it was told, and asks again.
'use strict';

const { Registry } = require('azure-iothub');

const registry = Registry.fromConnectionString(process.env.HUB_CONNECTION_STRING);

async function main() {
  for (let calls = 0; ; calls += 1) {
    try {
      await registry.get('d');
    } catch (error) {
      const seconds = Number(error.response.headers['retry-after']);
      console.log(JSON.stringify({ calls, name: error.name, status: error.response.statusCode, seconds }));
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      const found = await registry.get('d');
      console.log(JSON.stringify({ found: found.responseBody.deviceId }));
      return;
    }
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
