import { test, type Test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { withStore } from '../../test/support/postgres.js';
import { until } from '../../test/support/who-door.js';
import { Trust, type TrustOptions } from './trust.js';

async function following(t: Test, follow: TrustOptions['follow']) {
  const { trust: store } = await withStore(t);
  const clock = new ManualClock();
  const warned: object[] = [];
  const log = { ...silentLogger, info: () => undefined, warn: (fields: object) => void warned.push(fields) };
  let steps = 0;
  const state = await store.claim('the root');
  const trust = new Trust({ store, state, follow, onStep: () => steps++, clock, log: log as never });
  await trust.start();
  t.teardown(() => trust.stop());
  const turns = async (condition: () => boolean): Promise<void> =>
    until(() => {
      clock.advance(1000);
      return condition();
    });
  return { store, trust, turns, warned, steps: () => steps };
}

test('each step is taken once, in the order in which it was found', async (t) => {
  const followed: string[] = [];
  const { store, trust, turns, steps } = await following(t, async ({ phase }) => void followed.push(phase));
  await turns(() => trust.generation === 1);
  const rest = { root: 'the root', nextRoot: 'another', nextRootEndorsement: 'signed', startedAtMs: 5 };
  t.ok(await store.change(1, { ...rest, phase: 'spreading' }));
  await turns(() => trust.generation === 2);
  t.notOk(await store.change(1, { ...rest, phase: 'moving' }), 'somebody else was first');
  t.ok(await store.change(2, { ...rest, phase: 'moving' }));
  await trust.refresh();
  t.equal(trust.state.phase, 'moving', 'known at once where it was changed');
  await turns(() => trust.generation === 3);
  t.same(followed, ['steady', 'spreading', 'moving']);
  t.equal(steps(), 3);
});

test('a step that cannot be taken is tried again each second, and said once, with what to do', async (t) => {
  let tries = 0;
  let why: string | undefined = 'nobody signs it';
  const { trust, turns, warned, steps } = await following(t, async () => {
    tries++;
    if (why !== undefined) throw new MeshError('CONFLICT', why, { hint: 'start the other one' });
  });
  await turns(() => tries >= 4);
  t.equal(trust.generation, 0);
  t.same(warned, [{ event: 'trust.waiting', code: 'CONFLICT', reason: why, hint: 'start the other one' }]);
  why = 'something else';
  await turns(() => warned.length === 2);
  why = undefined;
  await turns(() => trust.generation === 1);
  t.equal(steps(), 1);
});
