import { parseArgs } from 'node:util';
import { MUTATIONS, type Mutation } from './simulation.js';

export interface SimArguments {
  /** One seed alone, or many from 1 on. */
  seed: number | undefined;
  seeds: number;
  from: number;
  workers: number;
  trace: boolean;
  /** Stop at the first seed that breaks something. */
  first: boolean;
  mutation: Mutation | undefined;
}

export const USAGE = `Runs seeded simulations of a whole mesh and checks the invariants over each history.

  npm run sim -- --seeds 10000            seeds 1 to 10000 on two worker processes
  npm run sim -- --seed 4711 --trace      that run again, to the last message, with everything that happened
  npm run sim -- --seeds 500 --mutation epoch-guard

  --from N      the first seed (1)
  --workers N   processes (2)
  --first       stop at the first seed that breaks something
  --mutation M  breaks the mesh on purpose: ${MUTATIONS.join(', ')}
`;

const whole = (name: string, text: string): number => {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new Error(`--${name} ${text} is not a whole number from 1 on`);
  return value;
};

/** @throws Error with one line that says what is wrong */
export function readArguments(given: string[]): SimArguments {
  const { values } = parseArgs({
    args: given,
    options: {
      seed: { type: 'string' },
      seeds: { type: 'string', default: '1000' },
      from: { type: 'string', default: '1' },
      workers: { type: 'string', default: '2' },
      trace: { type: 'boolean', default: false },
      first: { type: 'boolean', default: false },
      mutation: { type: 'string' },
    },
  });
  const { mutation } = values;
  if (mutation !== undefined && !MUTATIONS.includes(mutation as Mutation))
    throw new Error(`there is no mutation "${mutation}"; there are ${MUTATIONS.join(', ')}`);
  return {
    seed: values.seed === undefined ? undefined : whole('seed', values.seed),
    seeds: whole('seeds', values.seeds),
    from: whole('from', values.from),
    workers: whole('workers', values.workers),
    trace: values.trace,
    first: values.first,
    mutation: mutation as Mutation | undefined,
  };
}
