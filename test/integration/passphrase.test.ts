/** Passphrases are asked for on a terminal without showing them, and no question waits for somebody who is gone. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { test } from 'tap';
import { programPath } from '../support/mesh.js';
import { Terminal } from '../support/terminal.js';

const WORDS = 'wombats knitting purple gloves';

const folder = t.testdir();
const environment = { PATH: process.env.PATH, HOME: folder, LANG: 'C.UTF-8' };

const authority = (...args: string[]): Terminal =>
  new Terminal([process.execPath, programPath('mesh-ca'), ...args], { cwd: folder, env: environment });

/** `mesh-ca init --passphrase`, up to its first question. */
async function asked(name: string): Promise<{ terminal: Terminal; key: string }> {
  const dir = join(folder, name);
  const terminal = authority('init', '--passphrase', '--dir', dir);
  await terminal.shows("passphrase for the CA's keys: ");
  return { terminal, key: join(dir, 'ca.key') };
}

test('a new passphrase is asked for twice and not shown', async (t) => {
  const { terminal, key } = await asked('twice');
  terminal.type(`${WORDS}\r`);
  await terminal.shows('again: ');
  terminal.type(`${WORDS}\r`);
  t.equal(await terminal.ended, 0, terminal.shown);
  t.match(readFileSync(key, 'utf8'), /BEGIN ENCRYPTED PRIVATE KEY/);
  t.notOk(WORDS.split(' ').some((word) => terminal.shown.includes(word)));
  const dir = join(folder, 'twice');
  const opening = authority('issue', 'anna', '--role', 'operator', '--out', dir, '--dir', dir);
  await opening.shows(': ');
  opening.type(`${WORDS}\r`);
  t.equal(await opening.ended, 0, `it is the one that was typed: ${opening.shown}`);
});

test('two that differ, one that is too short, and both typed at once', async (t) => {
  const differing = await asked('differing');
  differing.terminal.type(`${WORDS}\r`);
  await differing.terminal.shows('again: ');
  differing.terminal.type(`${WORDS}!\r`);
  t.equal(await differing.terminal.ended, 4);
  t.match(differing.terminal.shown, /mesh-ca: the two were not the same; type it again/);
  const short = await asked('short');
  short.terminal.type('short\r');
  t.equal(await short.terminal.ended, 4);
  t.match(short.terminal.shown, /shorter than 8 bytes/);
  for (const { key } of [differing, short]) t.notOk(existsSync(key));
  const pasted = await asked('pasted');
  pasted.terminal.type(`${WORDS}\r${WORDS}\r`);
  t.equal(await pasted.terminal.ended, 0, pasted.terminal.shown);
});

test('whoever leaves ends the question: with Ctrl-C, Ctrl-D, or before it was asked', async (t) => {
  for (const key of ['\u0003', '\u0004']) {
    const { terminal } = await asked(`left-${key.codePointAt(0)}`);
    terminal.type(`half${key}`);
    t.equal(await terminal.ended, 130);
    t.match(terminal.shown, /interrupted; nothing was changed/);
  }
  const absent = authority('init', '--passphrase', '--dir', join(folder, 'absent'));
  absent.end();
  t.equal(await absent.ended, 130, absent.shown);
});
