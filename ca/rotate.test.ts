import { Command } from 'commander';
import { test, type Test } from 'tap';
import type { RotationAnswer, RotationDesk } from './desk.js';
import { addRotate, rotationText } from './rotate.js';

const answer = (over: Partial<RotationAnswer> = {}): RotationAnswer => ({
  ...{ phase: 'moving', root: 'aa', nextRoot: 'bb', startedAtMs: 1, done: 2, laggards: [], canFinish: true },
  ...over,
});
const steady = answer({ phase: 'steady', root: 'bb', nextRoot: '', canFinish: false });
const laggard = { role: 'agent', name: 'attic', live: true, untilMs: 0, missing: 'does not trust the new root yet' };

/** Runs `mesh-ca rotate …` against answers that come one after the other. */
async function rotate(t: Test, answers: RotationAnswer[], ...args: string[]) {
  const asked: string[] = [];
  const next = (what: string): Promise<RotationAnswer> => {
    asked.push(what);
    return Promise.resolve(answers.shift() ?? steady);
  };
  const desk: RotationDesk = {
    start: () => next('start'),
    get: () => next('get'),
    finish: (force) => next(`finish ${force}`),
    close: () => Promise.resolve(void asked.push('close')),
  };
  const program = new Command().exitOverride();
  addRotate(program, () => Promise.resolve({ openRotationDesk: () => Promise.resolve(desk) } as never));
  const [out, err] = [t.capture(process.stdout, 'write'), t.capture(process.stderr, 'write')];
  await program.parseAsync(['rotate', ...args], { from: 'user' });
  const textOf = (capture: typeof out) =>
    capture()
      .map(({ args: [text] }) => String(text))
      .join('');
  return { asked, stdout: textOf(out), stderr: textOf(err) };
}

test('it begins a rotation, says what is waited for once, and ends it when nobody is missing', async (t) => {
  const waiting = answer({ phase: 'spreading', canFinish: false, done: 1, laggards: [laggard] });
  const { asked, stdout, stderr } = await rotate(t, [waiting, waiting, answer()]);
  t.same(asked, ['start', 'get', 'get', 'finish false', 'close']);
  t.equal(stderr.match(/waiting for agent attic/g)?.length, 1);
  t.equal(stdout, 'the root of the mesh is bb now; the old one is gone\n');
});

test('while the overlap lasts it is not ended; ended by somebody else, it is over', async (t) => {
  const begun = answer({ startedAtMs: Date.now() });
  const { asked } = await rotate(t, [begun, begun, steady], '--overlap', '1h');
  t.same(asked, ['start', 'get', 'get', 'close']);
});

test('one step by hand: status as JSON, finish by force only when that was said', async (t) => {
  const status = await rotate(t, [answer({ laggards: [laggard], canFinish: false })], 'status', '--json');
  t.match(JSON.parse(status.stdout), { phase: 'moving', nextRoot: 'bb', missing: [{ name: 'attic', until: null }] });
  t.match(JSON.parse((await rotate(t, [steady], '--json', 'status')).stdout), { nextRoot: null });
  t.same((await rotate(t, [steady], 'finish')).asked, ['finish false', 'close']);
  t.same((await rotate(t, [steady], 'finish', '--force')).asked, ['finish true', 'close']);
});

test('the text names who is missing, within bounds, and says when it can be ended', (t) => {
  t.match(rotationText(answer()), /nobody needs the old root any more: mesh-ca rotate finish\n$/);
  t.match(rotationText(steady), /^steady: no rotation is under way\nroot +bb\n$/);
  t.match(rotationText({ ...steady, laggards: [laggard] }), /settling +1 trust the old root still/);
  const many = Array.from({ length: 23 }, (_, index) => ({ ...laggard, name: `n${index}`, live: false, untilMs: 1 }));
  const text = rotationText(answer({ laggards: many, canFinish: false }));
  t.match(text, / {2}agent n0: does not trust the new root yet \(until 1970-01-01T00:00:00\.001Z\)\n/);
  t.match(text, / {2}and 3 more\n$/);
  t.end();
});
