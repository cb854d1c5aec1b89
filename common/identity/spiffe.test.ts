import { test } from 'tap';
import { formatMeshUri, formatSpiffeId, parseMeshUri, parseSpiffeId } from './spiffe.js';

const bytes = (text: string): Buffer => Buffer.from(text, 'utf8');

test('an identity survives the round trip', async (t) => {
  const id = { meshId: 'mesh-0a1b2c3d4e5f', role: 'agent', name: 'render-1' } as const;
  t.equal(formatSpiffeId(id), 'spiffe://mesh-0a1b2c3d4e5f/agent/render-1');
  t.same(parseSpiffeId(bytes(formatSpiffeId(id))), id);
  t.equal(parseMeshUri(bytes(formatMeshUri('lab'))), 'lab');
});

test('there is one spelling only', async (t) => {
  const refused = [
    '',
    'spiffe:',
    'spiffe://',
    'spiffe://m',
    'spiffe://m/agent',
    'spiffe://m/agent/',
    'spiffe://m//a',
    'spiffe:///agent/a',
    'spiffe://m/agent/a/',
    'spiffe://m/agent/a/b',
    'spiffe://m/root/a',
    'spiffe://m/constructor/a',
    'spiffe://m/Agent/a',
    'spiffe://M/agent/a',
    'spiffe://m/agent/A',
    'SPIFFE://m/agent/a',
    'https://m/agent/a',
    'spiffe://m:7443/agent/a',
    'spiffe://user@m/agent/a',
    'spiffe://m/agent/a?x=1',
    'spiffe://m/agent/a#x',
    'spiffe://m/agent/%61',
    'spiffe://m/agent/a\0',
    'spiffe://m/agent/a\0.example',
    'spiffe://m\0/agent/a',
    'spiffe://m/agent/a\n',
    ' spiffe://m/agent/a',
    'spiffe://m/agent/a ',
    'spiffe://m/agent/..',
    'spiffe://m/agent/a_b',
    'spiffe://m/agent/\u0430',
    'spiffe://m/agent/\uff41',
    `spiffe://m/agent/${'a'.repeat(64)}`,
    `spiffe://${'m'.repeat(64)}/agent/a`,
  ];
  for (const uri of refused) {
    t.throws(() => parseSpiffeId(bytes(uri)), { code: 'BAD_CERTIFICATE' }, JSON.stringify(uri));
    if (uri !== 'spiffe://m') t.throws(() => parseMeshUri(bytes(uri)), { code: 'BAD_CERTIFICATE' });
  }
});

test('what is not a name is not formatted', async (t) => {
  for (const name of ['', 'A', 'a/b', 'a b', '-a', 'a'.repeat(64)]) {
    t.throws(() => formatSpiffeId({ meshId: 'm', role: 'agent', name }), { code: 'BAD_NAME' });
    t.throws(() => formatMeshUri(name), { code: 'BAD_NAME' });
  }
});
