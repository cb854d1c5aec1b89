import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { TLSSocket } from 'node:tls';
import { test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { fromUrl } from './connection.js';
import { openStore } from './index.js';

/** Of nobody: made for this test, for the name `localhost` only, valid for a hundred years. */
const CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBlTCCATugAwIBAgIUJgNYcdZNCfoMag7YDWIO8/LbTWowCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTAyMTExNFoYDzIxMjYxMDI4
MDIxMTE0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARIVmJteNZqKI4KttumUtsXM/4uf+DQ0ZIqu/Bv1bs4C4nYLX7EL5Dk
mr8tndR/WFe/GSkK4+7wRpZ8B2iQIj/9o2kwZzAdBgNVHQ4EFgQU+SyY9wt8GfIM
99CbcZRQRn25zeYwHwYDVR0jBBgwFoAU+SyY9wt8GfIM99CbcZRQRn25zeYwDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SAAwRQIgHRJ2/1bAaX4EJeYZCPNxVkUCRQnr5sqnBl328xxe4rUCIQDPv4wUJNQ0
hfecJyha1bFFBFTOB/pWZMso8Alv3h38Og==
-----END CERTIFICATE-----
`;
const KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgmG9jrgJotbNWoeez
xpaFuznJ+dB8RjF9hEyRLOWk50ChRANCAARIVmJteNZqKI4KttumUtsXM/4uf+DQ
0ZIqu/Bv1bs4C4nYLX7EL5Dkmr8tndR/WFe/GSkK4+7wRpZ8B2iQIj/9
-----END PRIVATE KEY-----
`;

test('sslmode is translated, not passed on', (t) => {
  const of = (query: string) => fromUrl(`postgres://u:p%40@db.example:5433/mesh${query}`);
  t.same(of('?sslmode=disable').tls.mode, 'off');
  t.match(of('').tls, { mode: 'prefer', options: { rejectUnauthorized: false } });
  t.match(of('?sslmode=require').tls, { mode: 'on', options: { rejectUnauthorized: false } });
  t.match(of('?sslmode=verify-full').tls, { options: { rejectUnauthorized: true, checkServerIdentity: undefined } });
  t.match(of('?sslmode=verify-ca').tls, { options: { rejectUnauthorized: true, checkServerIdentity: Function } });
  const target = of('?sslmode=verify-full&options=-c%20x=y');
  t.match(target, { user: 'u', password: 'p@', database: 'mesh', parameters: { options: '-c x=y' } });
  t.same(Object.keys(target.parameters), ['options']);
  t.equal(target.place, 'db.example:5433/mesh');
  t.equal(target.warning, undefined);
  t.match(of('').warning, /not verified/);
  t.match(of('?sslmode=require').warning, /db\.example/);
  t.equal(fromUrl('postgres://u@localhost/mesh').warning, undefined);
  t.same(fromUrl('postgres:///mesh?host=/run/postgresql').addresses, [{ path: '/run/postgresql/.s.PGSQL.5432' }]);
  t.same(fromUrl('postgresql://u:p@a,b:6000,[::1]:7000/mesh').addresses, [
    { host: 'a', port: 5432 },
    { host: 'b', port: 6000 },
    { host: '::1', port: 7000 },
  ]);
  const bad = { code: 'BAD_CONFIG' };
  t.throws(() => of('?sslmode=maybe'), bad);
  t.throws(() => of('?target_session_attrs=standby'), bad);
  t.same(of('?target_session_attrs=primary').parameters, {}, 'what is done anyway');
  t.throws(() => of('?sslmode=verify-ca&sslrootcert=/nowhere.pem'), { ...bad, message: /nowhere\.pem/ });
  t.throws(() => fromUrl('mysql://u:p@h/d'), bad);
  t.throws(() => fromUrl('postgres://u:s3cret@h:port/d'), { ...bad, message: /^[^3]*$/ });
  t.throws(() => fromUrl('s3cret not a url'), { ...bad, message: /^[^3]*$/ });
  t.end();
});

/** Answers the request for TLS as PostgreSQL does, and tells whether a start-up message came through it. */
async function tlsServer(): Promise<{ server: Server; port: number; startups: () => number }> {
  let startups = 0;
  const server = createServer((raw) => {
    raw.on('error', () => undefined);
    raw.once('data', () => {
      raw.write('S');
      const secure = new TLSSocket(raw, { isServer: true, cert: CERTIFICATE, key: KEY });
      secure.on('error', () => undefined);
      secure.once('data', () => {
        startups++;
        secure.destroy();
      });
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, port: (server.address() as AddressInfo).port, startups: () => startups };
}

test('the next host is tried when one does not answer', async (t) => {
  const { server, port, startups } = await tlsServer();
  t.teardown(() => server.close());
  const url = `postgres://mesh:s3cret@127.0.0.1:1,127.0.0.1:${port}/mesh?sslmode=require`;
  await t.rejects(openStore({ url, log: silentLogger, clock: systemClock }), { code: 'DATABASE_DOWN' });
  t.ok(startups() > 0);
});

test('a server is believed only as far as sslmode says', async (t) => {
  const root = join(t.testdir({ 'root.pem': CERTIFICATE }), 'root.pem');
  const { server, port, startups } = await tlsServer();
  t.teardown(() => server.close());
  const tries: [string, boolean][] = [
    ['127.0.0.1 sslmode=require', true],
    ['127.0.0.1 sslmode=verify-ca', false],
    ['localhost sslmode=verify-full', false],
    [`localhost sslmode=verify-full&sslrootcert=${encodeURIComponent(root)}`, true],
    [`127.0.0.1 sslmode=verify-full&sslrootcert=${encodeURIComponent(root)}`, false],
    [`127.0.0.1 sslmode=verify-ca&sslrootcert=${encodeURIComponent(root)}`, true],
    [`127.0.0.1 sslmode=require&sslrootcert=${encodeURIComponent(root)}`, true],
  ];
  for (const [text, believed] of tries) {
    const [host, query] = text.split(' ');
    const before = startups();
    const url = `postgres://mesh:s3cret@${host}:${port}/mesh?${query}`;
    const failure = await openStore({ url, log: silentLogger, clock: systemClock }).catch((error: Error) => error);
    t.match(failure, { code: 'DATABASE_DOWN', message: believed ? /is not there/ : /TLS check/ }, text);
    t.equal(startups() > before, believed, `${text}: user name sent`);
  }
});
