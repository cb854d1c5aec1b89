import { test } from 'tap';
import type { SealedSecret } from '../../coordinator/ports.js';
import type { Subject } from './subject.js';

const sealed = (owner: string, name: string, over: Partial<SealedSecret> = {}): SealedSecret => ({
  ...{ owner, name, revision: 'r1', keyId: 'k1', sealed: Buffer.alloc(33, 7), sizeBytes: 5, isText: true },
  ...over,
});

export function secretsConform({ withStore }: Subject): void {
  test('a secret is kept for its owner, replaced whole, and gone when it was removed', async (t) => {
    const { secrets } = await withStore(t);
    t.match(await secrets.put(sealed('submitter/anna', 'TOKEN'), 'submitter/anna', 9), {
      ...{ owner: 'submitter/anna', name: 'TOKEN', sizeBytes: 5, setBy: 'submitter/anna' },
    });
    await secrets.put(sealed('submitter/berta', 'TOKEN'), 'operator/admin', 9);
    await secrets.put(sealed('everyone', 'A'), 'operator/admin', 9);
    const next = { revision: 'r2', keyId: 'k2', sealed: Buffer.alloc(30, 1), sizeBytes: 2, isText: false };
    await secrets.put(sealed('submitter/anna', 'TOKEN', next), 'operator/admin', 9);
    const named = (rows: { owner: string; name: string }[]) => rows.map(({ owner, name }) => `${owner}/${name}`);
    t.same(named(await secrets.list()), ['everyone/A', 'submitter/anna/TOKEN', 'submitter/berta/TOKEN']);
    t.same(named(await secrets.list(['submitter/anna', 'everyone'])), ['everyone/A', 'submitter/anna/TOKEN']);
    const wanted = [
      { owner: 'submitter/anna', name: 'TOKEN' },
      { owner: 'submitter/anna', name: 'A' },
      { owner: 'submitter/anna', name: 'TOKEN' },
    ];
    const read = await secrets.read(wanted);
    t.equal(read.length, 1);
    t.match(read[0], { ...next, owner: 'submitter/anna', sealed: Buffer });
    t.same(Buffer.from(read[0]?.sealed ?? []), next.sealed);
    t.equal(await secrets.remove({ owner: 'submitter/anna', name: 'TOKEN' }), true);
    t.equal(await secrets.remove({ owner: 'submitter/anna', name: 'TOKEN' }), false);
    t.same(await secrets.read(wanted), []);
    t.equal((await secrets.read([{ owner: 'submitter/berta', name: 'TOKEN' }])).length, 1);
  });

  test('an owner has so many secrets and no more; replacing one always works', async (t) => {
    const { secrets } = await withStore(t);
    for (const name of ['A', 'B']) t.ok(await secrets.put(sealed('submitter/anna', name), 'submitter/anna', 2));
    t.equal(await secrets.put(sealed('submitter/anna', 'C'), 'submitter/anna', 2), undefined);
    t.ok(await secrets.put(sealed('submitter/anna', 'B', { revision: 'r2' }), 'submitter/anna', 2));
    t.ok(await secrets.put(sealed('submitter/berta', 'C'), 'submitter/berta', 2), 'others have their own');
    t.equal((await secrets.list(['submitter/anna'])).length, 2);
  });
}
