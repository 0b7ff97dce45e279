// What the service SDK's queries find, page by page.
// usage: node query.js PAGE_SIZE QUERY..., with CONNECTION in the environment; prints one JSON line for each query:
// {pages: [[...], ...]}, or {error: name, message}
'use strict';
const { Registry } = require('azure-iothub');

async function main() {
  const registry = Registry.fromConnectionString(process.env.CONNECTION);
  const [size, ...queries] = process.argv.slice(2);
  for (const text of queries) {
    const query = registry.createQuery(text, Number(size));
    const pages = [];
    let line = { pages };
    try {
      while (query.hasMoreResults) {
        const { result } = await query.nextAsTwin();
        pages.push(JSON.parse(JSON.stringify(result, (key, value) => (key === '_registry' ? undefined : value))));
      }
    } catch (error) {
      line = { error: error.name, message: error.message };
    }
    process.stdout.write(`${JSON.stringify(line)}\n`);
  }
}

main().catch((error) => { console.error(error); process.exit(1); });
