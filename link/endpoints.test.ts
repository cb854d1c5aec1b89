import { test } from 'tap';
import { MeshError } from '../common/errors.js';
import { formatEndpoint, grpcTarget, knownEndpoints, parseEndpoint } from './endpoints.js';

test('every way to write an endpoint', async (t) => {
  t.same(parseEndpoint('192.168.1.5'), { host: '192.168.1.5', port: 7443 });
  t.same(parseEndpoint('coordinator.lan:9000'), { host: 'coordinator.lan', port: 9000 });
  t.same(parseEndpoint(' box '), { host: 'box', port: 7443 });
  t.same(parseEndpoint('[fd00::5]:1'), { host: 'fd00::5', port: 1 });
  t.same(parseEndpoint('[::1]'), { host: '::1', port: 7443 });
  t.same(parseEndpoint('fd00::5'), { host: 'fd00::5', port: 7443 });
  for (const text of ['10.0.0.1:7443', '[fd00::5]:1', 'box:65535'])
    t.equal(formatEndpoint(parseEndpoint(text)), text, `${text} comes back as it was`);
  t.equal(grpcTarget(parseEndpoint('10.0.0.1')), 'ipv4:10.0.0.1:7443');
  t.equal(grpcTarget(parseEndpoint('::1')), 'ipv6:[::1]:7443');
  t.equal(grpcTarget(parseEndpoint('box')), 'dns:box:7443');
});

test('of remembered addresses those that can be read count', async (t) => {
  t.same(knownEndpoints(['host:0', 'box:1', 'a b', '', '::1']), [
    { host: 'box', port: 1 },
    { host: '::1', port: 7443 },
  ]);
});

test('what is no endpoint is refused in one line', async (t) => {
  const bad = [
    '',
    ':7443',
    'host:',
    'host:0',
    'host:65536',
    'host:7443x',
    '[fd00::5]x',
    '[box]:1',
    '300.1.1.1',
    'a b',
    'https://box',
    '-box',
    'a:1:2',
    `${'a'.repeat(300)}`,
    'bo\u0000x',
  ];
  for (const text of bad) {
    const error = t.throws(() => parseEndpoint(text)) as unknown;
    t.ok(error instanceof MeshError && error.code === 'USAGE' && error.exitCode === 2, JSON.stringify(text));
    t.notMatch((error as Error).message, /\n/);
  }
});
