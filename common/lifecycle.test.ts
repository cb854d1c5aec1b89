import { test } from 'tap';
import { type Service, ServiceGroup } from './lifecycle.js';

function makeServices(names: string[], fail: { start?: string; stop?: string } = {}) {
  const events: string[] = [];
  const services = names.map(
    (name): Service => ({
      name,
      start: async () => {
        events.push(`start ${name}`);
        if (fail.start === name) throw new Error(`${name} does not start`);
      },
      stop: async () => {
        events.push(`stop ${name}`);
        if (fail.stop === name) throw new Error(`${name} does not stop`);
      },
    }),
  );
  const group = new ServiceGroup('group');
  for (const service of services) group.add(service);
  return { group, events };
}

test('started in order, stopped in reverse, once', async (t) => {
  const { group, events } = makeServices(['a', 'b', 'c']);
  await group.start();
  await Promise.all([group.stop(), group.stop()]);
  await group.stop();
  t.same(events, ['start a', 'start b', 'start c', 'stop c', 'stop b', 'stop a']);
});

test('one that fails to start takes those before it with it; what comes after is never started', async (t) => {
  const { group, events } = makeServices(['a', 'b', 'c'], { start: 'b' });
  await t.rejects(group.start(), { message: 'b does not start' });
  t.same(events, ['start a', 'start b', 'stop b', 'stop a']);
  await group.stop();
  t.equal(events.length, 4, 'nothing is left to stop');
});

test('the failure to start is what is thrown, even when stopping fails too', async (t) => {
  const { group } = makeServices(['a', 'b'], { start: 'b', stop: 'a' });
  await t.rejects(group.start(), { message: 'b does not start' });
});

test('one that fails to stop does not keep the others running', async (t) => {
  const { group, events } = makeServices(['a', 'b', 'c'], { stop: 'c' });
  await group.start();
  await t.rejects(group.stop(), { message: 'c does not stop' });
  t.same(events.slice(3), ['stop c', 'stop b', 'stop a']);
});

test('run adds one on top; what fails there is stopped with the group', async (t) => {
  const { group, events } = makeServices(['a']);
  await group.start();
  const extra: Service = {
    name: 'x',
    start: async () => void events.push('start x'),
    stop: async () => void events.push('stop x'),
  };
  t.equal(await group.run(extra), extra);
  const bad: Service = {
    ...extra,
    name: 'bad',
    start: async () => Promise.reject(new Error('no')),
    stop: async () => void events.push('stop bad'),
  };
  await t.rejects(group.run(bad), { message: 'no' });
  await group.stop();
  t.same(events, ['start a', 'start x', 'stop bad', 'stop x', 'stop a']);
});

test('stopped while it starts: the one that was starting is stopped when it is ready, nothing more is started', async (t) => {
  const events: string[] = [];
  let ready: () => void = () => undefined;
  const group = new ServiceGroup('group');
  group.add({
    name: 'slow',
    start: () => new Promise<void>((resolve) => (ready = resolve)),
    stop: async () => void events.push('stop slow'),
  });
  group.add({ name: 'next', start: async () => void events.push('start next'), stop: async () => undefined });
  const starting = group.start();
  starting.catch(() => undefined);
  await group.stop();
  ready();
  await t.rejects(starting, { code: 'INTERRUPTED' });
  t.same(events, ['stop slow', 'stop slow']);
  await t.rejects(group.run({ name: 'late', start: async () => undefined, stop: async () => undefined }), {
    code: 'INTERRUPTED',
  });
});
