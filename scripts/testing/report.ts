/**
 * Reads the TAP that tap prints over many files and says what people need: one line for each file, failures in full,
 * every skipped test with its reason, and the totals. A test is what a file's top level calls `test` on; a file that
 * dies, times out or never reports counts as one failed test.
 */
import { Parser, type Result } from 'tap-parser';

export interface Totals {
  passed: number;
  failed: number;
  skipped: number;
}

interface FileState {
  passed: number;
  failed: number;
  skipped: number;
  /** Failing assertions, each as text to print. */
  failures: string[];
  /** What the file wrote that is no TAP; printed when it failed. */
  output: string[];
}

const newFile = (): FileState => ({ passed: 0, failed: 0, skipped: 0, failures: [], output: [] });

/** What tap adds to say how it was called. */
const NOISE = new Set(['typeName', 'methodName', 'functionName', 'isToplevel', 'stdio', 'cwd', 'jobId', 'args']);
NOISE.add('command').add('externalID').add('compare');

const indent = (text: string, by: string): string => text.trimEnd().replace(/^(?=.)/gm, by);

/** The diagnostics of a failed assertion: a line each, texts of several lines as blocks. */
function formatDiagnostics(diag: unknown): string {
  if (diag === null || typeof diag !== 'object') return '';
  const lines: string[] = [];
  for (const [key, value] of Object.entries(diag as Record<string, unknown>)) {
    if (NOISE.has(key)) continue;
    if (key === 'at') {
      const { fileName, lineNumber, columnNumber } = value as {
        fileName: string;
        lineNumber: number;
        columnNumber: number;
      };
      lines.push(`at: ${fileName}:${lineNumber}:${columnNumber}`);
    } else if (typeof value === 'string' && value.trimEnd().includes('\n')) {
      lines.push(`${key}:\n${indent(value, '  ')}`);
    } else {
      lines.push(`${key}: ${typeof value === 'string' ? value.trimEnd() : JSON.stringify(value)}`);
    }
  }
  return lines.join('\n');
}

export class TestReport {
  readonly totals: Totals = { passed: 0, failed: 0, skipped: 0 };
  readonly skips: string[] = [];
  readonly reported = new Set<string>();
  readonly #print: (line: string) => void;

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  /** A parser for one run of tap; give it what tap writes and end it. */
  parser(): Parser {
    const parser = new Parser();
    let file = newFile();
    parser.on('child', (child: Parser) => {
      file = newFile();
      this.#watch(child, file, child.name, []);
    });
    parser.on('assert', (result: Result) => {
      this.#endFile(result, file);
      file = newFile();
    });
    // What is no TAP bubbles up from the file's parser to this one.
    parser.on('extra', (text: string) => file.output.push(text));
    parser.on('bailout', (reason: string) => this.#fail('tap stopped', [reason || 'bail out']));
    return parser;
  }

  /** Counts each file that was asked for and of which nothing was heard. */
  expect(files: readonly string[]): void {
    for (const path of files) {
      if (!this.reported.has(path)) this.#fail(path, ['did not report: the run ended before it']);
    }
  }

  /** The last lines: what was skipped and why, then the totals alone on a line. */
  finish(): void {
    const { passed, failed, skipped } = this.totals;
    if (skipped > 0) this.#print(`\nSkipped:\n${this.skips.map((line) => `  ${line}`).join('\n')}`);
    this.#print('');
    this.#print(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
  }

  #watch(parser: Parser, file: FileState, name: string, path: readonly string[]): void {
    let childFailed = false;
    parser.on('child', (child: Parser) => {
      childFailed = false;
      child.on('assert', (result: Result) => {
        if (!result.ok && !result.todo && !result.skip) childFailed = true;
      });
      this.#watch(child, file, name, [...path, child.name]);
    });
    parser.on('assert', (result: Result) => {
      const failed = !result.ok && !result.todo && !result.skip;
      const title = [...path, result.name].join(' › ');
      if (result.skip || result.todo) {
        file.skipped++;
        this.skips.push(`${name} › ${title}: ${reasonOf(result)}`);
      } else if (path.length === 0) {
        if (failed) file.failed++;
        else file.passed++;
      }
      if (failed && !childFailed) file.failures.push(`${title}\n${indent(formatDiagnostics(result.diag), '    ')}`);
      childFailed = false;
    });
  }

  #endFile(result: Result, file: FileState): void {
    this.reported.add(result.name);
    if (result.skip) {
      file.skipped++;
      this.skips.push(`${result.name}: ${reasonOf(result)}`);
    }
    const failed = !result.ok && !result.skip;
    if (failed && file.failed === 0) {
      file.failed = 1;
      file.failures.push(`the file itself\n${indent(formatDiagnostics(result.diag), '    ')}`);
    }
    for (const key of ['passed', 'failed', 'skipped'] as const) this.totals[key] += file[key];
    const counts = [
      `${file.passed} passed`,
      file.failed > 0 ? `${file.failed} failed` : '',
      file.skipped > 0 ? `${file.skipped} skipped` : '',
    ].filter((text) => text !== '');
    const seconds = ((result.time ?? 0) / 1000).toFixed(1).padStart(6);
    this.#print(`${failed ? 'FAILED' : '    ok'} ${seconds} s  ${result.name} (${counts.join(', ')})`);
    if (!failed) return;
    for (const failure of file.failures) this.#print(indent(`\n✗ ${failure}`, '    '));
    const output = file.output.join('').trimEnd();
    if (output !== '') this.#print(indent(`\nIt printed:\n${output}`, '    '));
    this.#print('');
  }

  #fail(name: string, reasons: readonly string[]): void {
    this.totals.failed++;
    this.#print(`FAILED  ${name}: ${reasons.join(' ')}`);
  }
}

const reasonOf = ({ skip, todo }: Result): string => {
  if (typeof skip === 'string') return skip;
  if (skip) return 'no reason given';
  return typeof todo === 'string' ? `not done: ${todo}` : 'not done';
};
