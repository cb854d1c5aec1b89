/** A mesh whose programs are on different hosts of a LAN of namespaces, and what can be done to the wires between. */
import { execFileSync } from 'node:child_process';
import type { Test } from 'tap';
import { type Agent, makeMesh, type Mesh } from './mesh.js';
import { createLan, type Lan, type LanHost, noNetns } from './netns.js';
import type { Spawner } from './program.js';

function reasonAgainst(): string | false {
  if (noNetns) return noNetns;
  try {
    execFileSync('iptables', ['--version'], { stdio: 'ignore' });
    return false;
  } catch {
    return 'iptables is not installed';
  }
}

/** Why packets cannot be dropped here, for `skip`; false when they can. */
export const noFirewall: string | false = reasonAgainst();

export type Way = 'in' | 'out';

export const inside =
  (host: LanHost): Spawner =>
  (file, args, options) =>
    host.spawn(file, args, options);

/** Drops packets of one host, silently, as a broken switch or a laptop out of reach does. */
export class Firewall {
  constructor(private readonly host: LanHost) {}

  /** What comes in from a peer, what goes out to it, or both. */
  drop(peer: LanHost, ...ways: readonly Way[]): void {
    for (const way of ways) {
      const rule = way === 'in' ? ['INPUT', '-s', peer.address()] : ['OUTPUT', '-d', peer.address()];
      this.#iptables('-A', ...rule, '-j', 'DROP');
    }
  }

  /** The same with everybody. */
  isolate(...ways: readonly Way[]): void {
    for (const way of ways)
      this.#iptables('-A', ...(way === 'in' ? ['INPUT', '-i', 'eth0'] : ['OUTPUT', '-o', 'eth0']), '-j', 'DROP');
  }

  /** Resets every connection that says something. */
  reset(): void {
    this.#iptables('-A', 'OUTPUT', '-o', 'eth0', '-p', 'tcp', '-j', 'REJECT', '--reject-with', 'tcp-reset');
  }

  heal(): void {
    this.#iptables('-F');
  }

  #iptables(...args: string[]): void {
    const command = ['netns', 'exec', this.host.namespace, 'iptables', '-w', ...args];
    execFileSync('ip', command, { stdio: ['ignore', 'pipe', 'pipe'] });
  }
}

export interface LanMesh {
  mesh: Mesh;
  lan: Lan;
  agents: Map<string, Agent>;
  firewall(name: string): Firewall;
  /** Starts the agent of a host, again after it ended. */
  startAgent(name: string, ...args: string[]): Promise<Agent>;
  startCoordinator(): Promise<void>;
}

/** Hosts `coordinator` and one for each agent. There is no mDNS: the agents are told the address. */
export async function startLanMesh(
  t: Test,
  options: { agents: readonly string[]; coordinator?: readonly string[]; agent?: readonly string[] },
): Promise<LanMesh> {
  const lan = createLan(t, ['coordinator', ...options.agents]);
  const mesh = makeMesh(t);
  const home = lan.host('coordinator');
  mesh.enter = ['ip', 'netns', 'exec', home.namespace];
  const agents = new Map<string, Agent>();
  const startCoordinator = async (): Promise<void> => {
    const args = ['--listen', home.address(), ...(options.coordinator ?? [])];
    await mesh.startCoordinator({ spawner: inside(home), args });
  };
  const startAgent = async (name: string, ...more: string[]): Promise<Agent> => {
    const args = ['--slots', '1', '--stop-grace', '100ms', '--kill-grace', '300ms', ...(options.agent ?? []), ...more];
    const agent = await mesh.startAgent(name, { spawner: inside(lan.host(name)), args });
    agents.set(name, agent);
    return agent;
  };
  await startCoordinator();
  await Promise.all(options.agents.map((name) => startAgent(name)));
  return { mesh, lan, agents, startAgent, startCoordinator, firewall: (name) => new Firewall(lan.host(name)) };
}
