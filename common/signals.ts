/** Waits for SIGINT or SIGTERM, or for somebody in the process to raise the same. */
export interface SignalWait {
  promise: Promise<string>;
  raise(cause: string): void;
  /** Called at every signal after the first: somebody is in a hurry. */
  onAgain(listener: () => void): void;
}

export function untilSignal(): SignalWait {
  let resolve: (cause: string) => void = () => undefined;
  const again: (() => void)[] = [];
  let raised = false;
  const promise = new Promise<string>((done) => (resolve = done));
  const raise = (cause: string) => {
    if (raised) for (const listener of again) listener();
    raised = true;
    resolve(cause);
  };
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => raise(name));
  return { promise, raise, onAgain: (listener) => void again.push(listener) };
}
