import { MeshError } from './errors.js';

/**
 * What `work` comes to, unless the signal aborts first; the work goes on until it finds out by itself, unheard.
 * @throws MeshError INTERRUPTED with this message, at once, when the signal aborts
 */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal, message: string): Promise<T> {
  let interrupt: () => void = () => undefined;
  const interrupted = new Promise<never>((_, reject) => {
    interrupt = () => reject(new MeshError('INTERRUPTED', message));
  });
  signal.addEventListener('abort', interrupt, { once: true });
  if (signal.aborted) interrupt();
  try {
    return await Promise.race([work, interrupted]);
  } finally {
    signal.removeEventListener('abort', interrupt);
  }
}
