import type { Clock } from '../../common/clock.js';
import type { ServiceGroup } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import type { AgentServiceClient } from '../../proto/gen/mesh/v1/agent.js';
import type { Executor } from '../core/types.js';
import { NodeFault } from '../core/types.js';
import type { StagingCache } from '../staging/cache.js';
import type { FileSource } from '../staging/place.js';
import { FunctionExecutor } from './function/function.js';
import { Janitor } from './janitor.js';
import { ProcessExecutor } from './process.js';
import { prepareTiers, type SandboxOptions } from './sandbox/prepare.js';
import type { Tiers } from './sandbox/tiers.js';
import { SecretFiles } from './secret-files.js';
import { findSpawner } from './spawner/program.js';
import { Spawner } from './spawner/spawner.js';
import { StrayWatch, sweepStrays } from './strays.js';
import { taskUser } from './user.js';
import { dataDirMarker, prepareWorkRoot } from './workroot.js';

export interface ExecutorsOptions {
  dataDir: string;
  bootId: string;
  cache: StagingCache;
  clock: Clock;
  log: Logger;
  slots: number;
  /** Who runs the tasks when the agent is root. */
  userName: string;
  graceMs: number;
  sandbox: SandboxOptions;
  nodeName: () => string;
  /** Where files are fetched from; undefined while no coordinator is connected. */
  bulk: () => Pick<AgentServiceClient, 'fetchBlob'> | undefined;
}

/**
 * Cleans up after an earlier life of this agent, then makes the executors; what they need to run joins the group.
 * @throws MeshError SANDBOX when a tier is demanded that does not work here
 */
export async function makeExecutors(
  group: ServiceGroup,
  options: ExecutorsOptions,
): Promise<{ executors: Map<string, Executor>; tiers: Tiers; secretFiles: boolean }> {
  const { dataDir, bootId, cache, clock, log, bulk, nodeName, graceMs } = options;
  const marker = dataDirMarker(dataDir);
  const user = taskUser(options.userName);
  const swept = await sweepStrays(marker);
  if (swept > 0)
    log.warn({ event: 'task.strays-killed', killed: swept }, 'processes of an earlier run were still there');
  const workRoot = await prepareWorkRoot(dataDir, user);
  await group.run({ name: 'work-root', start: async () => undefined, stop: () => workRoot.remove() });
  const janitor = new Janitor(user, log);
  await group.run({ name: 'janitor', start: async () => undefined, stop: () => janitor.idle() });
  const strays = new StrayWatch({ marker, boot: bootId, clock, log });
  await group.run(strays);
  const files: FileSource = {
    withFile: (digest, use) => cache.withFile(digest, (wanted) => fetchBlob(bulk(), wanted), use),
  };
  const tiers = await prepareTiers(options.sandbox, { dataDir, workRoot, strays, clock, log, hostname: nodeName });
  const secretFiles = await SecretFiles.prepare(marker, user, janitor);
  if (secretFiles)
    await group.run({ name: 'secret-files', start: async () => undefined, stop: () => secretFiles.close() });
  else
    log.warn(
      { event: 'secrets.no-files' },
      'there is no memory file system: this node takes no job with --secret-file',
    );
  const spawner = new Spawner(findSpawner(), log);
  await group.run(spawner);
  const shared = { secretFiles, workRoot, files, strays, janitor, tiers, log, nodeName };
  const processes = new ProcessExecutor({ ...shared, spawner, clock, graceMs });
  const functions = new FunctionExecutor({ ...shared, slots: options.slots });
  await group.run({ name: 'functions', start: () => functions.prepare(), stop: () => functions.close() });
  const executors = new Map<string, Executor>([processes, functions].map((executor) => [executor.name, executor]));
  return { executors, tiers, secretFiles: secretFiles !== undefined };
}

/** A blob's bytes from the coordinator. @throws NodeFault while none is connected */
async function* fetchBlob(
  client: Pick<AgentServiceClient, 'fetchBlob'> | undefined,
  digest: string,
): AsyncGenerator<Uint8Array> {
  if (!client) throw new NodeFault('no coordinator is connected to fetch a file from');
  for await (const { data } of client.fetchBlob({ digest }) as AsyncIterable<{ data: Uint8Array }>) yield data;
}
