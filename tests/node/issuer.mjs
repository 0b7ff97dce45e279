// An OpenID Connect issuer (oidc-provider) over TLS, with Entra ID's layout: /TENANT/v2.0, scopes RESOURCE/.default.
// The environment has CERT and KEY (files), TENANT, and CLIENTS: {client id: {secret, claims}} as JSON. It says in
// lines of JSON where it listens, and what it did: {"rotate": true} signs with a new key and keeps the old ones,
// {"remove": true} publishes the newest key only, {"lifetime": SECONDS} is that of tokens from then on, {"asked": true}
// tells how often its keys were asked for.
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import { Provider } from 'oidc-provider';

const { CERT, KEY, TENANT } = process.env;
const clients = JSON.parse(process.env.CLIENTS);
const prefix = `/${TENANT}/v2.0`;
const keys = [];
let handler;
let lifetime = 3600;
let asked = 0;

function rotate() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const kid = `k${rotate.made = (rotate.made ?? 0) + 1}`;
  keys.unshift({ ...privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256' });
}

const resource = (ctx) => (ctx.oidc.params.scope ?? '').replace(/\/\.default$/, '');

function provide(port) {
  const provider = new Provider(`https://localhost:${port}${prefix}`, {
    clients: Object.entries(clients).map(([id, { secret }]) => ({
      client_id: id,
      client_secret: secret,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      token_endpoint_auth_method: 'client_secret_post',
    })),
    jwks: { keys },
    cookies: { keys: ['not a secret'] },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: resource,
        getResourceServerInfo: (ctx, audience) => ({
          scope: `${audience}/.default`,
          audience,
          accessTokenTTL: lifetime,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
    extraTokenClaims: (ctx, token) => clients[token.clientId]?.claims,
  });
  provider.on('server_error', (_, error) => console.error(error));
  const callback = provider.callback();
  handler = (request, answer) => {
    if (!request.url.startsWith(prefix)) {
      answer.writeHead(404).end();
      return;
    }
    request.originalUrl = request.url;
    request.url = request.url.slice(prefix.length);
    if (request.url.startsWith('/jwks')) asked += 1;
    callback(request, answer);
  };
}

rotate();
const server = createServer({ cert: readFileSync(CERT), key: readFileSync(KEY) }, (...both) => handler(...both));
server.listen(0, 'localhost', () => {
  const { port } = server.address();
  provide(port);
  const say = (what) => console.log(JSON.stringify(what));
  say({ issuer: `https://localhost:${port}${prefix}` });
  createInterface({ input: process.stdin }).on('line', (line) => {
    const told = JSON.parse(line);
    if (told.rotate) rotate();
    if (told.remove) keys.splice(1);
    if (told.lifetime) lifetime = told.lifetime;
    if (!told.asked) provide(port);
    say({ asked, keys: keys.map(({ kid }) => kid) });
  }).on('close', () => process.exit());
});
