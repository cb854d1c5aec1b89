import type { Api } from '../sdk/api.js';
import { resultShape } from '../sdk/shapes.js';
import type { MeshServiceService } from '../proto/gen/mesh/v1/mesh.js';
import { jsonLine, neutralise, safe, write } from './render/terminal.js';

/**
 * Results in index order. As JSON lines, or as text: what a command printed as it is (made safe on a terminal), what a
 * function returned as JSON. Tasks without a result are named on standard error.
 */
export async function printResults(
  mesh: Pick<Api<typeof MeshServiceService>, 'readResults'>,
  job: string,
  options: { json?: boolean; follow: boolean },
): Promise<void> {
  const terminal = process.stdout.isTTY === true;
  for await (const { items } of mesh.readResults({ job, follow: options.follow })) {
    const shapes = items.map(resultShape);
    if (options.json) {
      await write(process.stdout, shapes.map(jsonLine).join(''));
      continue;
    }
    for (const { index, status, result } of shapes) {
      if (status !== 'COMPLETED') process.stderr.write(`task ${job}.${index}: ${safe(status)}\n`);
      if (result === null) continue;
      const text = typeof result === 'string' ? withNewline(result) : jsonLine(result);
      await write(process.stdout, terminal ? neutralise(text) : text);
    }
  }
}

const withNewline = (text: string): string => (text === '' || text.endsWith('\n') ? text : `${text}\n`);
