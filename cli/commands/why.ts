import type { Command } from 'commander';
import { explainShape } from '../../sdk/shapes.js';
import { parseTask, type Target } from '../arguments/target.js';
import { exitOnInterrupt, makeCommand, optionsOf, print, withConnection } from '../context.js';
import { renderTable } from '../render/table.js';
import { paintStatus, safe } from '../render/terminal.js';

type Explanation = ReturnType<typeof explainShape>;

export function build(): Command {
  return makeCommand(
    'why',
    'Why a job or task waits, or why it ran where it did: for each node what ruled it out, or its score term by term. The lowest score wins.',
    ['mesh why JOB', 'mesh why JOB.17'],
  )
    .argument('<job[.index]>', 'a job or one of its tasks', parseTask)
    .action(async (target: Target, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const shape = explainShape(await mesh.explain({ job: target.job, index: target.index }));
        print(options, shape, () => whyView(shape));
      });
    });
}

export function whyView(shape: Explanation): string {
  const what = shape.index === null ? shape.job : `${shape.job}.${shape.index}`;
  const lines = [`${what}  ${paintStatus(shape.status)}`];
  if (shape.summary !== null) lines.push(safe(shape.summary));
  if (shape.chosen !== null) lines.push(`chosen: ${safe(shape.chosen)}`);
  if (shape.nodes.length === 0) return `${lines.join('\n')}\n`;
  const terms = [...new Set(shape.nodes.flatMap((node) => Object.keys(node.terms)))];
  const rows = [...shape.nodes]
    .sort(byFitness)
    .map((node) => [
      safe(node.name),
      node.feasible ? 'yes' : 'no',
      node.score === null ? '-' : node.score.toFixed(3),
      ...terms.map((term) => node.terms[term]?.toFixed(3) ?? '-'),
      safe(node.reason),
    ]);
  const columns = [
    { title: 'NODE' },
    { title: 'FITS' },
    { title: 'SCORE', align: 'right' as const },
    ...terms.map((term) => ({ title: safe(term).toUpperCase(), align: 'right' as const })),
    { title: 'REASON' },
  ];
  return `${lines.join('\n')}\n\n${renderTable(columns, rows)}`;
}

function byFitness(a: Explanation['nodes'][number], b: Explanation['nodes'][number]): number {
  if (a.feasible !== b.feasible) return a.feasible ? -1 : 1;
  return (a.score ?? Number.POSITIVE_INFINITY) - (b.score ?? Number.POSITIVE_INFINITY) || a.name.localeCompare(b.name);
}
