import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { withStore } from '../../test/support/postgres.js';
import type { CoordinatorStore } from '../ports.js';
import { Roster } from './roster.js';

/** One whose turns are counted. */
function member(store: CoordinatorStore, id: string, addresses: string[], leads: () => boolean = () => false) {
  let turns = 0;
  const counted: CoordinatorStore = { ...store, list: (ms) => store.list(ms).finally(() => turns++) };
  const clock = new ManualClock();
  const roster = new Roster({
    ...{ store: counted, id, name: id, leads, clock, log: silentLogger, trustGeneration: () => 1 },
    addresses: () => addresses,
  });
  const turn = async () => {
    const before = turns;
    roster.refresh();
    while (turns === before) await new Promise((resolve) => setImmediate(resolve));
  };
  return { roster, turn };
}

test('coordinators know each other and who leads; one that stops is named no more', async (t) => {
  const { coordinators, leader } = await withStore(t);
  await leader.take(undefined, 'one');
  const one = member(coordinators, 'one', ['10.0.0.1:7443', '[fd00::1]:7443'], () => true);
  const two = member(coordinators, 'two', ['10.0.0.2:7443']);
  await one.roster.start();
  await one.turn();
  t.ok(one.roster.alone);
  await two.roster.start();
  await two.turn();
  await one.turn();
  t.notOk(one.roster.alone);
  const all = ['10.0.0.1:7443', '[fd00::1]:7443', '10.0.0.2:7443'];
  t.same(one.roster.addresses(), all);
  t.same(two.roster.addresses(), all, 'the leader first, also for the one that stands by');
  t.match(two.roster.list(), [
    { name: 'one', leader: true },
    { name: 'two', leader: false },
  ]);
  const refusal = two.roster.notLeader();
  t.match(refusal, { code: 'NOT_LEADER', message: /one leads, at 10\.0\.0\.1:7443/, coordinators: all });
  await one.roster.stop();
  await two.turn();
  t.same(two.roster.addresses(), ['10.0.0.2:7443']);
  t.match(two.roster.notLeader().message, /nobody leads right now/);
  await two.roster.stop();
});

test('of many coordinators with many addresses each is named within the bound', async (t) => {
  const { coordinators } = await withStore(t);
  for (let i = 0; i < 5; i++)
    await coordinators.announce({
      ...{ id: `c${i}`, name: `c${i}`, version: '1', trustGeneration: 1 },
      addresses: Array.from({ length: 16 }, (_, n) => `10.0.${i}.${n}:7443`),
    });
  const here = member(coordinators, 'here', ['10.9.0.1:7443']);
  await here.roster.start();
  await here.turn();
  const named = here.roster.addresses();
  t.ok(named.length <= 16);
  for (let i = 0; i < 5; i++) t.ok(named.includes(`10.0.${i}.0:7443`));
  t.equal(here.roster.addresses(), named, 'made once, however often it is asked for');
  await here.roster.stop();
});
