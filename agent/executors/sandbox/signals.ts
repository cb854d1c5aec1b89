import { constants } from 'node:os';

/** Shells and bubblewrap report a process that a signal ended as this and the signal's number. */
const SIGNAL_BASE = 128;

/** Of names for the same number the first: SIGABRT, not SIGIOT. */
const NAMES = new Map(
  Object.entries(constants.signals)
    .reverse()
    .map(([name, number]) => [number, name as NodeJS.Signals]),
);

/**
 * The signal behind an exit code above 128. A program that chose such a code by itself cannot be told from one that a
 * signal ended; shells do so when that is what happened to their last command.
 */
export const signalOfCode = (exitCode: number): NodeJS.Signals | undefined => NAMES.get(exitCode - SIGNAL_BASE);
