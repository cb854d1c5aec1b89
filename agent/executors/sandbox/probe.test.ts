/** A tier that does not hold is not there, and the reason is one that helps. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { makeBench } from '../../../test/support/executor-bench.js';
import { TaskEtc } from './etc.js';
import { chooseTiers, type SandboxSetting } from './tiers.js';
import { probeBubblewrap } from './probe.js';
import { systemClock } from '../../../common/clock.js';

/** Probes with a program of this name that is the given script. */
async function probeWith(t: Test, script: string | undefined, readable: string[] = []) {
  const { dataDir, workRoot, strays } = await makeBench(t);
  writeFileSync(join(dataDir, 'agent.lock'), '');
  const programs = mkdtempSync(join(tmpdir(), 'programs-'));
  t.teardown(() => rmSync(programs, { recursive: true, force: true }));
  chmodSync(programs, 0o755);
  if (script !== undefined) writeFileSync(join(programs, 'bwrap'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return probeBubblewrap({
    ...{ dataDir, readable, directory: workRoot.privateDir('trial'), user: workRoot.user, cookie: strays.issue('x') },
    ...{
      etc: new TaskEtc(workRoot, systemClock),
      hostname: () => 'node-1',
      memoryDiskBytes: 1 << 20,
      clock: systemClock,
    },
    path: script === undefined || script === '' ? programs : `${programs}:${process.env.PATH ?? ''}`,
  });
}

test('why there is no sandbox, and what to do', async (t) => {
  t.match(await probeWith(t, undefined), { problem: 'bubblewrap is not installed', hint: /apt install bubblewrap/ });
  const saying = (text: string) => probeWith(t, `echo "bwrap: ${text}" >&2; exit 1`);
  t.match(await saying('Unknown option --size'), {
    problem: /Unknown option/,
    hint: 'install bubblewrap 0.7 or later',
  });
  t.match(await saying("Can't mount proc on /newroot/proc: Operation not permitted"), {
    hint: /ProtectKernelTunables/,
  });
  t.match(await saying('No permissions to create new namespace'), { problem: /does not work here: .*No permissions/ });
});

test('one that lets something through is no sandbox', async (t) => {
  // Runs the command after "--" with nothing around it, as the task's user.
  const open = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"';
  const probe = await probeWith(t, open);
  t.match(probe, { problem: /can be seen|can be written to/ });
  t.throws(() => chooseTiers('bubblewrap', probe), { code: 'SANDBOX' });
  t.same(
    chooseTiers('auto', probe).map(({ name }) => name),
    ['process'],
  );
});

test('what an operator shows does not spoil the trial', async (t) => {
  const probe = await probeWith(t, 'exec /usr/bin/bwrap "$@"', ['/boot', '/nowhere']);
  t.ok('tier' in probe, JSON.stringify(probe));
  const offered = (setting: SandboxSetting) => chooseTiers(setting, probe).map(({ name }) => name);
  t.same(offered('auto'), ['bubblewrap'], 'nothing weaker runs beside it, unless the operator says so');
  t.same(offered('bubblewrap'), ['bubblewrap']);
  t.same(offered('optional'), ['bubblewrap', 'process']);
});
