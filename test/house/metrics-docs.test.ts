import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { packageRoot } from '../../common/package.js';
import { Metrics } from '../../coordinator/services/metrics.js';

/** What the page needs to know of a metric of prom-client. */
interface Described {
  name: string;
  type: string;
  labelNames: string[];
}

test('docs/metrics.md names every metric of ours, its type and its labels', async (t) => {
  const metrics = new Metrics();
  // Only what a scrape asks would touch them.
  metrics.observe({ store: {} as never, nodes: () => [], epoch: () => 0, auditBroken: () => false });
  const made = (metrics.registry.getMetricsAsArray() as unknown as Described[])
    .filter(({ name }) => name.startsWith('mesh_'))
    .map(({ name, type, labelNames }) => `${name} ${type} ${labelNames.map((label) => `\`${label}\``).join(', ')}`);
  const page = readFileSync(join(packageRoot, 'docs', 'metrics.md'), 'utf8');
  const documented = [...page.matchAll(/^\| `(mesh_\w+)` \| (\w+) \| ([^|]*?) \|/gm)].map(
    ([, name, type, labels]) => `${name} ${type} ${labels}`,
  );
  t.strictSame(documented.sort(), made.sort());
});
