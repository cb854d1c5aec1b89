/**
 * docs/attacks.md: the attacks that were thought of, and the tests of each, found by their titles (`A9: …`, `A12, A13: …`).
 * A row without a test, or a title that names no row, fails: the page cannot promise what nobody tests.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { globSync } from 'tinyglobby';
import { packageRoot } from '../../common/package.js';

interface Attack {
  attack: string;
  answer: string;
  /** Why there is no test, or not of all of it. */
  open?: string;
}

/** By number: A1, A2, … */
const ATTACKS: readonly Attack[] = [
  {
    attack: 'a rogue mDNS advertiser with another CA',
    answer: 'the agent refuses it, sends no token, and goes on to the next candidate',
  },
  { attack: 'a flood of fake mDNS records', answer: 'at most 64 candidates are held, malformed ones are dropped' },
  { attack: 'a forged mDNS goodbye', answer: 'live sessions stay' },
  { attack: 'the same mDNS instance name twice', answer: 'instance names are unique; both stay visible' },
  {
    attack: 'an expired or not yet valid certificate, or one of another CA, in either direction',
    answer: 'refused, with the dates named',
  },
  {
    attack: "a client's certificate without an extended key usage, or with the wrong one",
    answer: 'refused',
  },
  {
    attack: 'a CA certificate as a client, a leaf that may sign, a leaf used as an issuer',
    answer: 'refused',
  },
  {
    attack: "a server without a coordinator's URI, whatever names it carries",
    answer: 'refused: common names are never read',
  },
  { attack: 'two URIs, NUL bytes, homoglyphs, upper case', answer: 'refused; names are `[a-z0-9-]{1,63}`' },
  {
    attack: "an agent's certificate on calls of people, or posing as the coordinator",
    answer: 'refused by role and by extended key usage',
  },
  {
    attack: 'a certificate request that asks for another name, role, CA bit or usage',
    answer: 'only its key is taken; possession is proven',
  },
  { attack: 'a certificate that is revoked while a stream is open', answer: 'closed within 2 s, its leases fenced' },
  {
    attack: 'TLS session resumption after a revocation',
    answer: 'no resumption; the identity is checked at every call',
  },
  { attack: 'TLS 1.2 or older', answer: 'refused' },
  {
    attack: 'one join token used fifty times at once, guessed, or expired',
    answer: 'exactly one certificate; rate-limited; refused',
  },
  {
    attack: 'an oversized message, 300 MiB of zeros compressed',
    answer: 'cut at the limit, memory flat',
  },
  {
    attack: 'a thousand TCP connections that say nothing',
    answer: 'a deadline for the handshake, a cap for each address',
  },
  {
    attack: '20,000 streams on one connection',
    answer: 'caps on streams and memory; without an identity one stream, 64 KiB and 10 s',
  },
  { attack: "an agent that reports another's task", answer: 'denied: who it is comes from the connection' },
  {
    attack: 'the result of a superseded generation',
    answer: 'acknowledged, nothing changes, audited in number',
  },
  {
    attack: 'a task that prints without end, without newlines, with escapes and broken UTF-8',
    answer: 'cut with a marker, memory flat, harmless on a terminal',
  },
  {
    attack: 'files with `..`, absolute paths, links, devices, colliding names',
    answer: 'nothing outside the task’s folder; refused with the entry’s name',
    open: 'whole folders are not shipped yet',
  },
  {
    attack: 'a secret that finds its way elsewhere',
    answer: 'not in logs, database, command lines, errors or output, also when split across chunks',
  },
  {
    attack: "`'; drop table`, `$(id)`, `__proto__`, newlines in names, labels and arguments",
    answer: 'inert; commands are argument vectors',
  },
  {
    attack: 'DNS rebinding, foreign origins and scripts in the dashboard',
    answer: '–',
    open: 'there is no dashboard yet',
  },
  {
    attack: "a task that reads the agent's key or environment, signals it, forks without end, outlives its attempt",
    answer: 'impossible in the bubblewrap tier; bounded elsewhere, and the tier is shown',
  },
  { attack: 'clocks ten minutes apart', answer: 'an error that names the skew; leases unaffected' },
];

const INTRODUCTION = `# Attacks that are tested

Generated from the titles of the tests by \`npm run docs\`; do not edit. Most first show that the attack works against a listener that
does nothing about it. What each defence is: [security.md](security.md).

| | attack | what happens | tests |
| --- | --- | --- | --- |
`;

/** `A9`, `A12, A13` or `A5 to A10`, before the colon of a test's title. */
const TITLE = /\btest\(\s*['"`](A\d+(?:(?:, | to )A\d+)*):/g;

function rowsOf(title: string): number[] {
  const [first = 0, ...rest] = [...title.matchAll(/A(\d+)/g)].map(([, row]) => Number(row));
  const [last = first] = rest;
  return title.includes(' to ') ? Array.from({ length: last - first + 1 }, (_, i) => first + i) : [first, ...rest];
}

/** Files by the rows their titles name. */
function testsByRow(): Map<number, Set<string>> {
  const found = new Map<number, Set<string>>();
  const files = globSync('**/*.test.ts', { cwd: packageRoot, ignore: ['**/node_modules/**', 'dist/**', '.tap/**'] });
  for (const file of files.sort())
    for (const [, title = ''] of readFileSync(join(packageRoot, file), 'utf8').matchAll(TITLE))
      for (const row of rowsOf(title)) found.set(row, (found.get(row) ?? new Set()).add(file));
  return found;
}

/** @throws Error when a row has no test, or a title names no row */
export function attacksPage(): string {
  const tests = testsByRow();
  const unknown = [...tests.keys()].find((row) => !ATTACKS[row - 1]);
  if (unknown !== undefined) throw new Error(`a test names the attack A${unknown}, which is not in the list`);
  const rows = ATTACKS.map(({ attack, answer, open }, at) => {
    const files = [...(tests.get(at + 1) ?? [])].map((file) => `[${file}](../${file})`);
    if (files.length === 0 && open === undefined) throw new Error(`the attack A${at + 1} has no test`);
    return `| A${at + 1} | ${attack} | ${answer} | ${[...files, ...(open ? [open] : [])].join(' · ')} |\n`;
  });
  return INTRODUCTION + rows.join('');
}
