// A device that uploads files, once step by step and once as the client does by itself; prints what it was told.
// usage: node upload.js SIZE, with CONNECTION and perhaps TRANSPORT in the environment
'use strict';
const { Readable } = require('stream');
const { Client } = require('azure-iot-device');
const transports = require('./transports');
const { BlockBlobClient } = require('@azure/storage-blob');

async function main() {
  const size = Number(process.argv[2]);
  const device = Client.fromConnectionString(process.env.CONNECTION, transports(process.env.TRANSPORT || 'mqtt'));

  const place = await device.getBlobSharedAccessSignature('by hand/a+b.bin');
  const { hostName, containerName, blobName, sasToken, correlationId } = place;
  const blob = new BlockBlobClient(`https://${hostName}/${containerName}/${encodeURIComponent(blobName)}${sasToken}`);
  const data = Buffer.alloc(size, 'ab');
  const sent = await blob.upload(data, size, { blobHTTPHeaders: { blobContentType: 'text/plain' } });
  await device.notifyBlobUploadStatus(correlationId, true, sent._response.status, 'sent');
  const back = await blob.downloadToBuffer();
  const properties = await blob.getProperties();

  await device.uploadToBlob('by itself', Readable.from([data.subarray(0, 7), data.subarray(7)]), size);

  const failed = await device.getBlobSharedAccessSignature('failed');
  await device.notifyBlobUploadStatus(failed.correlationId, false, 500, 'gave up');
  let refusal = '';
  await device.notifyBlobUploadStatus('nobody', true, 200, '').catch((error) => { refusal = error.message; });
  console.log(JSON.stringify({
    hostName, blobName, same: back.equals(data), contentType: properties.contentType, etag: sent.etag === properties.etag,
    refusal,
  }));
  process.exit(0); // the client was never opened, and its close would never end
}

main().catch((error) => { console.error(error); process.exit(1); });
