import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** The program itself: in a process of its own, where no test runner follows each of its millions of promises. */
export function sim(...given: string[]): Promise<{ code: number | null; text: string }> {
  const main = fileURLToPath(new URL('main.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import=tsx', main, ...given], { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, text })));
}
