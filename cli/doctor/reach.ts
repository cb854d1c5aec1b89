import { request } from 'node:https';
import { MeshError, toMeshError } from '../../common/errors.js';
import { finding } from '../../common/finding.js';
import { BACKDATE_MS } from '../../common/identity/profile.js';
import { readRoots } from '../../common/identity/roots.js';
import { formatDuration } from '../../common/units.js';
import type { Credential } from '../../link/credentials.js';
import { CredentialStore } from '../../link/credential-store.js';
import { formatEndpoint, parseEndpoint } from '../../link/endpoints.js';
import { withDiscovery } from '../../link/reach.js';
import type { Bench, Check } from './check.js';

const LISTEN_MS = 2000;
const ANSWER_MS = 5000;
/** The header it is read from counts in seconds. */
const SKEW_MS_NOTICE = 10_000;

export const coordinator: Check = async (bench) => {
  if (bench.profileDir === undefined) return [];
  const beganMs = bench.clock.monotonicMs();
  const connection = await bench.connection();
  if (!connection) {
    const { message, hint } = toMeshError(bench.failure);
    return [finding('coordinator', 'problem', message, hint)];
  }
  const { address } = connection;
  return [finding('coordinator', 'ok', `${address} answers, ${formatDuration(bench.clock.monotonicMs() - beganMs)}`)];
};

const credentialOf = ({ profileDir }: Bench): Credential | undefined =>
  profileDir === undefined ? undefined : new CredentialStore(profileDir, 'client').load();

/** Whether a machine that knows no address would find the mesh. */
export const discovery: Check = async (bench) => {
  const credential = credentialOf(bench);
  if (!credential) return [];
  const { clock } = bench;
  const place = await withDiscovery(
    true,
    readRoots(credential.root).digests,
    clock,
    undefined,
    (found) =>
      new Promise<string | undefined>((resolve) => {
        clock.after(LISTEN_MS, () => resolve(undefined));
        found?.onCandidate((candidate) => resolve(formatEndpoint(candidate)));
      }),
  );
  if (place !== undefined) return [finding('discovery', 'ok', `mDNS names ${place}`)];
  return [
    finding(
      'discovery',
      'notice',
      'no coordinator of this mesh was heard over mDNS',
      'open UDP port 5353 between the machines, or name it: --coordinator HOST',
    ),
  ];
};

/** The coordinator's clock, as it stamps its answers. */
export const clockSkew: Check = async (bench) => {
  const connection = await bench.connection();
  const credential = credentialOf(bench);
  if (!connection || !credential) return [];
  const sentMs = bench.clock.wallMs();
  const theirsMs = await dateOf(connection.address, credential);
  const skewMs = theirsMs - (sentMs + bench.clock.wallMs()) / 2;
  const size = Math.abs(skewMs);
  if (size < SKEW_MS_NOTICE) return [finding('clock', 'ok', "this machine's clock and the coordinator's agree")];
  const found = `this machine's clock is ${formatDuration(size)} ${skewMs > 0 ? 'behind' : 'ahead of'} the coordinator's`;
  const fix = 'timedatectl set-ntp true, on both machines';
  // A certificate made there is not valid here yet.
  return [finding('clock', size > BACKDATE_MS ? 'problem' : 'notice', found, fix)];
};

function dateOf(address: string, { root, certificateChain, privateKey }: Credential): Promise<number> {
  const { host, port } = parseEndpoint(address);
  return new Promise((resolve, reject) => {
    // Who answers was proven when the connection was made; an answer of the same chain will do for the time.
    const call = request(
      {
        ...{ host, port, path: '/healthz', agent: false, timeout: ANSWER_MS },
        ...{ ca: root, cert: certificateChain, key: privateKey, checkServerIdentity: () => undefined },
      },
      (response) => {
        response.resume();
        resolve(Date.parse(response.headers.date ?? ''));
      },
    );
    call.on('timeout', () => call.destroy(new MeshError('TIMED_OUT', `${address} does not say what time it is`)));
    call.on('error', reject).end();
  });
}
