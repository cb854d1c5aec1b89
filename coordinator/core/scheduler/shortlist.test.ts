import { test } from 'tap';
import { SeededRandom } from '../../../test/support/random.js';
import { lowest, shortlist, type Waiter } from './shortlist.js';

interface Job {
  arrival: number;
  waiting: number;
  isBlocked: boolean;
}

const WAITER: Waiter<Job> = {
  arrival: (job) => job.arrival,
  waiting: (job) => job.waiting,
  isBlocked: (job) => job.isBlocked,
};

const waiters = (count: number, over: (arrival: number) => Partial<Job> = () => ({})): Job[] =>
  Array.from({ length: count }, (_, arrival) => ({ arrival, waiting: 1000, isBlocked: false, ...over(arrival) }));

const listed = (jobs: readonly Job[]): Job[] => [...shortlist(new Set(jobs), WAITER)];

test('a few hundred jobs are all looked at', async (t) => {
  const jobs = waiters(256, (arrival) => ({ waiting: arrival }));
  t.same(listed(jobs), jobs);
});

test('of very many: the oldest, those with the least waiting, and whatever has blocked nodes', async (t) => {
  const jobs = waiters(10_000, (arrival) => ({
    ...(arrival >= 9000 && arrival < 9010 ? { waiting: 1 } : {}),
    isBlocked: arrival === 5000,
  }));
  const last = jobs.splice(0, 1);
  // The oldest may have been sorted in last: its rows were made later.
  const arrivals = new Set(listed([...jobs, ...last]).map(({ arrival }) => arrival));
  for (const arrival of [...Array(256).keys(), 5000, 9000, 9009]) t.ok(arrivals.has(arrival), `job ${arrival}`);
  t.ok(arrivals.size < 400, `${arrivals.size} of 10 000`);
});

test('the smaller the jobs, the more of them', async (t) => {
  t.ok(listed(waiters(10_000, () => ({ waiting: 10 }))).length >= 2000, 'as many as a plan can place');
  t.ok(listed(waiters(10_000, () => ({ waiting: 1 }))).length <= 5000, 'bounded all the same');
});

test('the lowest of a list are those that sorting it puts first', async (t) => {
  const random = new SeededRandom(7);
  for (let round = 0; round < 200; round++) {
    const items = Array.from({ length: Math.floor(random.next() * 60) }, () => Math.floor(random.next() * 20));
    const count = 1 + Math.floor(random.next() * 30);
    const found = lowest(items, count, (item) => item).sort((a, b) => a - b);
    t.same(found, items.sort((a, b) => a - b).slice(0, count));
  }
});
