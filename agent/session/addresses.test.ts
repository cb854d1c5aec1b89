import { test } from 'tap';
import { formatEndpoint } from '../../link/endpoints.js';
import { Addresses } from './addresses.js';

const texts = (addresses: Addresses): string[] => addresses.endpoints.map(formatEndpoint);

test('what was said last comes first; the list is remembered when it changes', async (t) => {
  const saved: string[][] = [];
  const addresses = new Addresses(['a.lan:1', 'b.lan:2'], (list) => saved.push(list));
  addresses.prefer(['b.lan:2', 'c.lan']);
  t.strictSame(texts(addresses), ['b.lan:2', 'c.lan:7443', 'a.lan:1']);
  addresses.prefer(['b.lan:2', 'c.lan:7443']);
  addresses.prefer([]);
  t.strictSame(saved, [['b.lan:2', 'c.lan:7443', 'a.lan:1']]);
});

test('what is no address is passed over, wherever it comes from; the list is bounded', async (t) => {
  const addresses = new Addresses(['not an address', 'a.lan:1', '1.2.3:x'], () => undefined);
  addresses.prefer(['', 'http://evil/', 'b.lan:99999', 'c.lan:3']);
  t.strictSame(texts(addresses), ['c.lan:3', 'a.lan:1']);
  addresses.prefer(Array.from({ length: 1000 }, (_, i) => `n${i}.lan:1`));
  t.equal(texts(addresses).length, 16);
  t.equal(texts(addresses)[0], 'n0.lan:1');
});
