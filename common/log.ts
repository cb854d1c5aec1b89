import pino, { type DestinationStream, type Logger as PinoLogger } from 'pino';

/**
 * JSON lines on standard error's sibling, standard output by default: one line an event. `event` is a stable dotted name
 * (`node.suspect`, `task.retry`); ids are fields; errors carry their cause chain. Secrets and query parameters never get
 * here: errors are serialised by `describeError`, which copies only what it names.
 */
export type Logger = PinoLogger;

interface ErrorDescription {
  type: string;
  message: string;
  code?: string;
  stack?: string;
  cause?: ErrorDescription;
}

const CAUSES_MAX = 8;

export function describeError(error: unknown, depth = 0): ErrorDescription {
  if (!(error instanceof Error)) return { type: typeof error, message: String(error) };
  const code = (error as { code?: unknown }).code;
  const description: ErrorDescription = { type: error.name, message: error.message };
  if (typeof code === 'string' || typeof code === 'number') description.code = String(code);
  if (depth === 0 && error.stack) description.stack = error.stack;
  if (error.cause !== undefined && depth < CAUSES_MAX) description.cause = describeError(error.cause, depth + 1);
  return description;
}

export interface LogOptions {
  level?: string;
  component: string;
  destination?: DestinationStream;
}

export function createLogger(options: LogOptions): Logger {
  return pino(
    {
      level: options.level ?? 'info',
      base: { component: options.component },
      timestamp: pino.stdTimeFunctions.isoTime,
      serializers: { err: (error) => describeError(error) },
      formatters: { level: (label) => ({ level: label }) },
      messageKey: 'message',
    },
    options.destination ?? openDestination(1),
  );
}

/** What waits for room on the disk of the log, at most; more is left out. */
const HELD_BYTES_MAX = 1024 * 1024;

/**
 * A log that cannot be written stops nothing: with a full disk under it lines wait, bounded, until there is room again.
 * pino itself sees to a reader who has gone.
 */
export function openDestination(dest: number | string): DestinationStream {
  const destination = pino.destination({ dest, sync: true, maxLength: HELD_BYTES_MAX });
  destination.on('error', () => undefined);
  return destination;
}

export const silentLogger: Logger = pino({ level: 'silent' });
