import { lineAt, type Source } from './source.js';
import type { Violation } from './violation.js';

/**
 * What may not be written where. `in` says which files the rule looks at, `except` which of them are let off and why.
 * A rule on `code` does not see comments and strings; one on `comments` sees nothing else.
 */
interface TextRule {
  rule: string;
  in: RegExp;
  on: 'code' | 'comments' | 'text';
  pattern: RegExp;
  what: string;
  except?: Readonly<Record<string, string>>;
}

const CORE = /(?:^|\/)core\/(?!.*\.test\.ts$).*\.ts$/;
/** What the simulator runs. */
const SIMULATED = /^(?:coordinator\/services|agent\/session)\/(?!.*\.test\.ts$).*\.ts$/;
const PRODUCT = /^(?!(?:test|bench|scripts|examples)\/|proto\/gen\/)(?!.*\.test\.ts$).*\.[cm]?ts$/;
const TESTS = /^test\/|\.test\.ts$/;
const OURS = /^(?!proto\/gen\/).*\.(?:[cm]?ts|mjs|js)$/;

const PURE = 'core/ reads no clock and draws nothing: take a parameter';

export const TEXT_RULES: readonly TextRule[] = [
  { rule: 'core is pure', in: CORE, on: 'code', pattern: /\bDate\.now\b|\bnew Date\(\s*\)/g, what: PURE },
  { rule: 'core is pure', in: CORE, on: 'code', pattern: /\bperformance\s*\.\s*now\b|\bhrtime\b/g, what: PURE },
  {
    rule: 'core is pure',
    in: CORE,
    on: 'code',
    pattern: /\bMath\.random\b|\brandom(?:UUID|Bytes|Int)\b|\bgetRandomValues\b/g,
    what: PURE,
  },
  {
    rule: 'core is pure',
    in: CORE,
    on: 'code',
    pattern: /(?<![\w$.])(?:setTimeout|setInterval|setImmediate|queueMicrotask)\b/g,
    what: 'core/ waits for nothing: the shell calls it',
  },
  {
    rule: 'core is pure',
    in: CORE,
    on: 'code',
    pattern: /(?<![\w$.])(?:globalThis\.)?process\s*[.[]/g,
    what: 'core/ knows no process: take a parameter',
  },
  { rule: 'core is pure', in: CORE, on: 'code', pattern: /(?<![\w$.])fetch\(/g, what: 'core/ does no I/O' },
  {
    rule: 'one clock',
    in: PRODUCT,
    on: 'code',
    pattern: /\bDate\.now\b|\bnew Date\(\s*\)|(?<!new )\bDate\(\)|\bperformance\s*\.\s*now\b|\bprocess\.hrtime\b/g,
    what: 'take a Clock (common/clock.ts)',
    except: {
      'common/clock.ts': 'it is the clock',
      'agent/executors/function/protocol.ts': 'one monotonic clock for all threads of the runner process',
    },
  },
  {
    rule: 'one clock',
    in: SIMULATED,
    on: 'code',
    pattern: /\bsetImmediate\(\s*\w+\s*\)/g,
    what: 'nothing waits for a turn of the event loop here: where time is simulated, hours pass until there is one',
  },
  {
    rule: 'tests do not sleep',
    in: TESTS,
    on: 'code',
    pattern: /\bsleep\(|\bawait\s+(?:setTimeout|pause)\(|=>\s*\{?\s*setTimeout\(\s*\w+\s*,/g,
    what: 'wait for a signal or a predicate',
    except: {
      'common/clock.test.ts': 'the clock is what it tests',
    },
  },
  {
    rule: 'tests do not sleep',
    in: TESTS,
    on: 'text',
    pattern: /import\s*(?:\*|\{[^}]*\b(?:setTimeout|setInterval|scheduler)\b)[^;'"]*['"]node:timers\/promises['"]/g,
    what: 'wait for a signal or a predicate',
    except: {
      'test/support/eventually.ts': 'it polls a predicate, with an end',
    },
  },
  {
    rule: 'every test runs',
    in: TESTS,
    on: 'code',
    pattern: /\.only\(|\bonly:\s*true\b/g,
    what: 'remove the only',
  },
  {
    rule: 'a skip says why',
    in: TESTS,
    on: 'code',
    pattern: /\bskip:\s*true\b|\.skip\(\s*\)/g,
    what: "give the reason: skip: 'needs root'",
  },
  {
    rule: 'the compiler is not silenced',
    in: OURS,
    on: 'comments',
    pattern: /@ts-(?:ignore|nocheck|expect-error)\b/g,
    what: 'mend the type',
  },
  {
    rule: 'nothing is left for later',
    in: OURS,
    on: 'comments',
    pattern: /\b(?:TODO|FIXME|XXX|HACK)\b/g,
    what: 'do it, or say in words what the limit is',
  },
  {
    rule: 'one way to print',
    in: PRODUCT,
    on: 'code',
    pattern: /(?<![\w$.])console\s*\./g,
    what: 'use the log, or write to process.stdout',
  },
];

const LINES_MAX = 400;

function checkText(source: Source, rule: TextRule): Violation[] {
  if (!rule.in.test(source.path) || rule.except?.[source.path] !== undefined) return [];
  return [...source[rule.on].matchAll(rule.pattern)].map((match) => ({
    path: source.path,
    line: lineAt(source.text, match.index),
    rule: rule.rule,
    what: `${match[0].trim()}: ${rule.what}`,
  }));
}

function checkSize(source: Source): Violation[] {
  if (source.lines <= LINES_MAX || !OURS.test(source.path)) return [];
  const what = `${source.lines} lines, more than ${LINES_MAX}: split it`;
  return [{ path: source.path, line: LINES_MAX + 1, rule: 'file size', what }];
}

export function checkTexts(sources: ReadonlyMap<string, Source>): Violation[] {
  return [...sources.values()].flatMap((source) => [
    ...checkSize(source),
    ...TEXT_RULES.flatMap((rule) => checkText(source, rule)),
  ]);
}
