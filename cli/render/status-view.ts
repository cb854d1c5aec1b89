import { stripVTControlCharacters } from 'node:util';
import { systemClock } from '../../common/clock.js';
import type { JobShape, NodeShape, WaitingShape } from '../../sdk/shapes.js';
import { counted, safe } from './terminal.js';
import { jobsTable, nodesTable, waitingTable } from './views.js';

export interface MeshStatus {
  nodes: NodeShape[];
  /** The latest first, a few. */
  jobs: JobShape[];
  /** Machines to be let in, or not. */
  waiting: WaitingShape[];
}

export interface StatusView {
  show(status: MeshStatus): void;
  /** Something that happened, one line. */
  note(line: string): void;
}

/** A table that is drawn over itself, with what happened above it. */
export function liveView(out: NodeJS.WriteStream): StatusView {
  let drawn = '';
  const rows = (text: string) =>
    text
      .split('\n')
      .slice(0, -1)
      .reduce(
        (sum, line) => sum + Math.max(1, Math.ceil(stripVTControlCharacters(line).length / (out.columns || 80))),
        0,
      );
  const draw = (above: string, text: string) => {
    const up = rows(drawn);
    out.write(`${up > 0 ? `\u001b[${up}A` : ''}\r\u001b[0J${above}${text}`);
    drawn = text;
  };
  return {
    note: (line) => draw(`${line}\n`, drawn),
    show: ({ nodes, jobs, waiting }) => {
      const parts = [nodes.length > 0 ? nodesTable(nodes) : 'no nodes yet\n'];
      if (waiting.length > 0) parts.push(waitingTable(waiting, systemClock.wallMs()));
      if (jobs.length > 0) parts.push(jobsTable(jobs, systemClock.wallMs()));
      draw('', `\n${parts.join('\n')}`);
    },
  };
}

/** A line per change, for logs and pipes. */
export function plainView(out: NodeJS.WriteStream): StatusView {
  const last = new Map<string, string>();
  const changed = (key: string, text: string) => {
    if (last.get(key) === text) return;
    last.set(key, text);
    out.write(`${text}\n`);
  };
  return {
    note: (line) => out.write(`${line}\n`),
    show: ({ nodes, jobs, waiting }) => {
      for (const { name, phrase } of waiting)
        changed(
          `waiting ${name}`,
          `${safe(name)} waits for approval and must show: ${phrase}; then: mesh nodes approve ${safe(name)}`,
        );
      for (const node of nodes)
        changed(
          `node ${node.name}`,
          `node ${safe(node.name)}: ${safe(node.state)}${node.draining ? ', draining' : ''}`,
        );
      for (const job of jobs) {
        const { total } = job.tasks;
        changed(`job ${job.id}`, `job ${job.id} (${safe(job.name)}, ${counted(total, 'task')}): ${safe(job.status)}`);
      }
      if (last.size > 1000) last.clear();
    },
  };
}
