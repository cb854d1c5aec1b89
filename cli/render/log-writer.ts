/**
 * Output of tasks, chunk by chunk. Raw bytes for a pipe; for a terminal whole characters without controls, each line
 * behind its task when there are several; or JSON lines. Characters split between two chunks of one stream stay whole.
 */
import { TextDecoder } from 'node:util';
import type { LogEntry } from '../../proto/gen/mesh/v1/mesh.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import { logShape } from '../../sdk/shapes.js';
import { jsonLine, OutputFilter, safe, write } from './terminal.js';

export interface LogWriterOptions {
  format: 'raw' | 'terminal' | 'json';
  job: string;
  /** Says before each line which task wrote it. */
  prefix: boolean;
  stdout?: NodeJS.WriteStream;
  stderr?: NodeJS.WriteStream;
}

export interface LogWriter {
  push(entry: LogEntry): Promise<void>;
  /** Writes what was held back for the rest of a character. */
  end(): Promise<void>;
}

const keyOf = (entry: LogEntry): string => `${entry.index}#${entry.attempt}/${entry.stream}`;
/** Streams whose last character may be split; more than any set of tasks that writes at the same time. */
const STREAMS_MAX = 4096;

export function makeLogWriter(options: LogWriterOptions): LogWriter {
  const { stdout = process.stdout, stderr = process.stderr } = options;
  if (options.format === 'json') return jsonWriter(options.job, stdout);
  if (options.format === 'terminal') return terminalWriter(options.prefix, stdout);
  return {
    push: (entry) =>
      entry.stream === Stream.SYSTEM
        ? write(stderr, `${safe(entry.data.toString('utf8'))}\n`)
        : write(stdout, entry.data),
    end: async () => undefined,
  };
}

function jsonWriter(job: string, stdout: NodeJS.WriteStream): LogWriter {
  const decoders = new Map<string, TextDecoder>();
  const last = new Map<string, LogEntry>();
  return {
    push: async (entry) => {
      const key = keyOf(entry);
      const decoder = decoders.get(key) ?? new TextDecoder();
      decoders.set(key, decoder);
      const text = decoder.decode(entry.data, { stream: true });
      last.set(key, { ...entry, data: Buffer.alloc(0) });
      forgetOldest(decoders);
      forgetOldest(last);
      if (text !== '') await write(stdout, jsonLine(logShape(job, entry, text)));
    },
    end: async () => {
      for (const [key, entry] of last) {
        const text = decoders.get(key)?.decode() ?? '';
        if (text !== '') await write(stdout, jsonLine(logShape(job, entry, text)));
      }
    },
  };
}

function forgetOldest(map: Map<string, unknown>): void {
  if (map.size <= STREAMS_MAX) return;
  const [oldest] = map.keys();
  if (oldest !== undefined) map.delete(oldest);
}

function terminalWriter(prefix: boolean, stdout: NodeJS.WriteStream): LogWriter {
  const filters = new Map<string, OutputFilter>();
  /** The task whose line is open, and whether one is. */
  let open: string | undefined;

  const emit = async (key: string, label: string, text: string) => {
    if (text === '') return;
    if (!prefix) return write(stdout, text);
    const broken = open !== undefined && open !== key ? '\n' : '';
    const body = (open === key ? '' : label) + text.replace(/\n(?!$)/g, `\n${label}`);
    open = text.endsWith('\n') ? undefined : key;
    await write(stdout, broken + body);
  };

  return {
    push: async (entry) => {
      const key = keyOf(entry);
      const label = `${entry.index}| `;
      if (entry.stream === Stream.SYSTEM) {
        const broken = open === undefined ? '' : '\n';
        open = undefined;
        return write(stdout, `${broken}${prefix ? label : ''}${safe(entry.data.toString('utf8'))}\n`);
      }
      const filter = filters.get(key) ?? new OutputFilter();
      filters.set(key, filter);
      forgetOldest(filters);
      await emit(key, label, filter.push(entry.data));
    },
    end: async () => {
      for (const [key, filter] of filters) await emit(key, `${key.split('#')[0]}| `, filter.end());
    },
  };
}
