// A service that is told of files: prints COUNT notices, one as JSON a line. The first is given back once.
// usage: node filenotifications.js COUNT, with HUB_CONNECTION_STRING in the environment
'use strict';
const { Client } = require('azure-iothub');

async function main() {
  const wanted = Number(process.argv[2]);
  const client = Client.fromConnectionString(process.env.HUB_CONNECTION_STRING);
  await client.open();
  const receiver = (await client.getFileNotificationReceiver()).receiver
    || await new Promise((resolve, reject) => {
      client.getFileNotificationReceiver((error, found) => (error ? reject(error) : resolve(found)));
    });
  let abandoned = '';
  let count = 0;
  receiver.on('errorReceived', (error) => { console.error(error); process.exit(1); });
  receiver.on('message', async (message) => {
    const notice = JSON.parse(message.getData().toString());
    if (abandoned === '') {
      abandoned = notice.blobName;
      await receiver.abandon(message);
      return;
    }
    await receiver.complete(message);
    console.log(JSON.stringify({ ...notice, contentType: message.contentType, again: notice.blobName === abandoned }));
    count += 1;
    if (count === wanted) process.exit(0);
  });
}

main().catch((error) => { console.error(error); process.exit(1); });
