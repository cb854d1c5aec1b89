import type { SingleBar } from 'cli-progress';
import type { JobShape } from '../../sdk/shapes.js';
import { safe, usesColour } from './terminal.js';

/** A bar on standard error while it is a terminal; otherwise nothing at all. */
export class Progress {
  #bar: SingleBar | undefined;

  private constructor(bar: SingleBar | undefined) {
    this.#bar = bar;
  }

  /** `unit` follows the numbers: "tasks". */
  static async start(title: string, total: number, unit: string): Promise<Progress> {
    if (!process.stderr.isTTY) return new Progress(undefined);
    const { default: progress } = await import('cli-progress');
    const plain = !usesColour(process.stderr, process.env);
    const bar = new progress.SingleBar({
      format: `${safe(title)} {bar} {value}/{total} ${unit}{note}`,
      stream: process.stderr,
      hideCursor: true,
      clearOnComplete: true,
      barsize: 30,
      barCompleteChar: plain ? '#' : '\u2588',
      barIncompleteChar: plain ? '.' : '\u2591',
    });
    bar.start(total, 0, { note: '' });
    return new Progress(bar);
  }

  update(value: number, note = ''): void {
    this.#bar?.update(value, { note: note && `, ${note}` });
  }

  job(job: JobShape): void {
    this.#bar?.setTotal(job.tasks.total);
    const { completed, failed, cancelled, running, assigned, retrying } = job.tasks;
    const notes = [
      running + assigned > 0 ? `${running + assigned} running` : '',
      retrying > 0 ? `${retrying} waiting to retry` : '',
      failed > 0 ? `${failed} failed` : '',
    ];
    this.update(completed + failed + cancelled, notes.filter(Boolean).join(', '));
  }

  /** Removes the bar and gives the cursor back; harmless when repeated. */
  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}
