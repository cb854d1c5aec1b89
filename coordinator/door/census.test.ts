import { test } from 'tap';
import { testDoorLimits } from '../../test/support/limits.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { Census } from './census.js';

const ADDRESS = '10.0.0.1';

function setUp() {
  const clock = new ManualClock();
  const census = new Census({ ...testDoorLimits(), connectionsPerSecond: 1, connectionsBurst: 3 }, clock);
  /** Comes, says who it is and goes again; why not, if it was not let in. */
  const visit = (identity: string): string | undefined => {
    const refused = census.admit(ADDRESS);
    if (refused !== undefined) return refused;
    const kind = identity === '' ? 'nobody' : 'identity';
    const unwelcome = census.become(ADDRESS, kind, identity);
    census.leave(ADDRESS, unwelcome === undefined ? kind : 'handshake', identity);
    return unwelcome;
  };
  return { clock, census, visit };
}

test('strangers of one address come no faster than its rate', async (t) => {
  const { clock, visit } = setUp();
  t.same([visit(''), visit(''), visit('')], [undefined, undefined, undefined]);
  t.match(visit(''), /too fast from this address/);
  clock.advance(1000);
  t.equal(visit(''), undefined);
  t.match(visit('agent/attic'), /too fast from this address/, 'nobody knows yet who it is');
});

test('many agents behind one address count each for itself', async (t) => {
  const { visit, census } = setUp();
  for (let number = 0; number < 100; number++) t.equal(visit(`agent/node-${number}`), undefined);
  t.equal(census.total, 0);
});

test('one identity comes no faster than the rate either, and then its address pays for it', async (t) => {
  const { clock, visit } = setUp();
  for (let times = 0; times < 3; times++) t.equal(visit('agent/attic'), undefined);
  for (let times = 0; times < 3; times++) t.match(visit('agent/attic'), /connections of agent\/attic come too fast/);
  t.match(visit('agent/attic'), /too fast from this address/);
  clock.advance(1000);
  t.equal(visit('agent/attic'), undefined);
});
