import { test } from 'tap';
import { Candidates } from './candidates.js';
import { formatTxt, parseTxt } from './mdns.js';

const ID = '0123456789abcdef';
const claim = (more: object = {}) => ({
  port: 7443,
  txt: { v: '1-1', id: ID },
  addresses: ['10.0.0.5'],
  referer: { address: '10.0.0.5' },
  ...more,
});

test('a TXT record is what we would have written or nothing', async (t) => {
  const advertisement = { protocol: { min: 1, max: 3 }, id: ID };
  t.same(parseTxt(formatTxt(advertisement)), advertisement);
  for (const txt of [
    undefined,
    null,
    'v=1-1',
    {},
    { v: '1-1' },
    { v: '1', id: ID },
    { v: '3-1', id: ID },
    { v: '1-1', id: ID.toUpperCase() },
    { v: '1-1', id: `${ID}0` },
    { v: '1-99999', id: ID },
    { v: 1, id: ID },
    JSON.parse('{"__proto__":{"v":"1-1"},"id":"x"}'),
  ])
    t.equal(parseTxt(txt), undefined, JSON.stringify(txt));
});

test('a claim becomes its addresses, the sender first', async (t) => {
  const candidates = new Candidates(undefined);
  const found = candidates.observe(claim({ addresses: ['fd00::5', '172.17.0.1', '10.0.0.5', '10.0.0.5'] }));
  t.same(
    found.map(({ host }) => host),
    ['10.0.0.5', '172.17.0.1', 'fd00::5'],
  );
  t.same(candidates.observe(claim()), [], 'what is known is no news');
  t.match(new Candidates(undefined).observe(claim({ addresses: [] })), [{ host: '10.0.0.5', port: 7443, id: ID }]);
  const useless = ['0.0.0.0', '224.0.0.251', '255.255.255.255', 'fe80::1', 'ff02::fb', '::', 'nonsense', 7];
  t.same(candidates.observe(claim({ port: 1, addresses: useless, referer: { address: 'fe80::9' } })), []);
});

test('malformed claims and other meshes are dropped', async (t) => {
  const candidates = new Candidates([`${ID}ffff`]);
  for (const port of [0, 65536, 1.5, '7443', undefined]) t.same(candidates.observe(claim({ port })), []);
  t.same(candidates.observe(claim({ txt: { v: 'x', id: ID } })), []);
  t.equal(candidates.dropped, 6);
  t.same(candidates.observe(claim({ txt: { v: '1-1', id: 'f'.repeat(16) } })), []);
  t.equal(candidates.foreign, 1);
  t.equal(candidates.observe(claim()).length, 1);
});

test('at most 64 are held, 8 from one sender, and a freed place is used again', async (t) => {
  const candidates = new Candidates(undefined);
  const flood = (sender: string, count: number) => {
    for (let i = 0; i < count; i++)
      candidates.observe(claim({ port: 1000 + i, addresses: [sender], referer: { address: sender } }));
  };
  flood('10.0.0.66', 1000);
  t.equal(candidates.list.length, 8);
  t.equal(candidates.observe(claim()).length, 1, 'the flood leaves room for others');
  for (let i = 1; i < 250; i++) flood(`10.0.1.${i}`, 10);
  t.equal(candidates.list.length, 64);
  t.same(candidates.observe(claim({ port: 9 })), [], 'full');
  candidates.forget({ host: '10.0.1.1', port: 1000 });
  t.equal(candidates.observe(claim({ port: 9 })).length, 1);
});
