import { test } from 'tap';
import { MeshError } from '../common/errors.js';
import { silentLogger } from '../common/log.js';
import { ManualClock } from '../test/support/manual-clock.js';
import { formatEndpoint } from './endpoints.js';
import { race } from './race.js';

const standby = (...coordinators: string[]) => new MeshError('NOT_LEADER', 'this one stands by', { coordinators });

const until = async (predicate: () => unknown): Promise<void> => {
  while (!predicate()) await new Promise((resolve) => setImmediate(resolve));
};

function run(clock: ManualClock, commit: (where: string) => string) {
  const asked: string[] = [];
  const won = race({
    ...{ what: 'mesh x', addresses: [{ host: 'one', port: 1 }], discovery: undefined, clock, timeoutMs: 30_000 },
    log: silentLogger,
    probe: async () => undefined,
    commit: async (endpoint) => {
      const where = formatEndpoint(endpoint);
      asked.push(where);
      return commit(where);
    },
  });
  won.catch(() => undefined);
  return { asked, won };
}

test('a coordinator that stands by names the one that leads, which is asked next', async (t) => {
  const { asked, won } = run(new ManualClock(), (where) => {
    if (where === 'one:1') throw standby('two:2', 'not an address', 'one:1');
    return where;
  });
  t.equal(await won, 'two:2');
  t.same(asked, ['one:1', 'two:2']);
});

test('while nobody leads, whoever stands by is asked again', async (t) => {
  const clock = new ManualClock();
  let leads = false;
  const { asked, won } = run(clock, (where) => {
    if (!leads) throw standby();
    return where;
  });
  for (let times = 1; times <= 3; times++) {
    await until(() => asked.length === times);
    await new Promise((resolve) => setImmediate(resolve));
    leads = times === 3;
    clock.advance(1000);
  }
  t.equal(await won, 'one:1');
});

test('a refusal that another would repeat ends it', async (t) => {
  const { won } = run(new ManualClock(), () => {
    throw new MeshError('REVOKED', 'no more');
  });
  await t.rejects(won, { code: 'REVOKED' });
});

test('the first address has a start; the others follow twice as many at a time', async (t) => {
  const clock = new ManualClock();
  const asked: string[] = [];
  const silent = new Promise<undefined>(() => undefined);
  const addresses = ['one', 'two', 'three', 'four', 'five'].map((host) => ({ host, port: 1 }));
  const answers = new Map<string, () => void>();
  const won = race({
    ...{ what: 'mesh x', addresses, discovery: undefined, clock, timeoutMs: 30_000, log: silentLogger },
    probe: async ({ host }) => {
      asked.push(host);
      await Promise.race([silent, new Promise<void>((resolve) => answers.set(host, resolve))]);
    },
    commit: async ({ host }) => host,
  });
  t.same(asked, ['one']);
  clock.advance(499);
  t.same(asked, ['one']);
  clock.advance(1);
  t.same(asked, ['one', 'two', 'three']);
  clock.advance(500);
  t.same(asked, ['one', 'two', 'three', 'four', 'five']);
  answers.get('four')?.();
  t.equal(await won, 'four');
  t.same(clock.waiting, []);
});

test('an address that fails makes way for the next at once', async (t) => {
  const clock = new ManualClock();
  const asked: string[] = [];
  const addresses = ['one', 'two', 'three'].map((host) => ({ host, port: 1 }));
  const won = race({
    ...{ what: 'mesh x', addresses, discovery: undefined, clock, timeoutMs: 30_000, log: silentLogger },
    probe: async ({ host }) => {
      asked.push(host);
      if (host !== 'three') throw new Error('nobody there');
    },
    commit: async ({ host }) => host,
  });
  t.equal(await won, 'three');
  t.same(asked, ['one', 'two', 'three']);
});

test('an address that is reached and busy is waited for before others are asked', async (t) => {
  const clock = new ManualClock();
  const asked: string[] = [];
  const addresses = ['one', 'two', 'three'].map((host) => ({ host, port: 1 }));
  const won = race({
    ...{ what: 'mesh x', addresses, discovery: undefined, clock, timeoutMs: 30_000, log: silentLogger },
    probe: async ({ host }, _signal, reached) => {
      asked.push(host);
      if (host !== 'one') return undefined;
      reached();
      reached();
      return new Promise<undefined>(() => undefined);
    },
    commit: async ({ host }) => host,
  });
  clock.advance(3999);
  t.same(asked, ['one']);
  clock.advance(1);
  t.equal(await won, 'two', 'its time is over');
});
