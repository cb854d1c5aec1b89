/**
 * A LAN made of network namespaces: each host is one, with a cable (veth) to a switch (a bridge in a namespace of its
 * own), so nothing of it touches the machine's own network. There is no default route unless it is asked for. Needs
 * Linux, root and iproute2; `noNetns` says what is missing.
 *
 *   const lan = await createLan(t, ['coordinator', 'a', 'b']);
 *   const child = lan.host('a').spawn(process.execPath, ['dist/agent/main.js', …]);
 */
import { type ChildProcess, execFile, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import type { Test } from 'tap';

const ip = (...args: string[]): string =>
  execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

function reasonAgainst(): string | false {
  if (process.platform !== 'linux') return 'network namespaces exist on Linux only';
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  const probe = `pm-probe-${process.pid}`;
  try {
    ip('netns', 'add', probe);
    ip('netns', 'del', probe);
    return false;
  } catch (error) {
    return `network namespaces cannot be made here: ${(error as Error).message.split('\n')[0]}`;
  }
}

/** Why there can be no LAN here, for `skip`; false when there can. */
export const noNetns: string | false = reasonAgainst();

export interface LanOptions {
  /** How many networks; 10.88.0.0/24, 10.88.1.0/24 and so on. One when absent; with none, hosts have loopback only. */
  networks?: number;
  /** The networks a host is on, by its name; all when absent. Its interfaces are named by them: eth0, eth1. */
  attach?: Record<string, number[]>;
  /** Every host gets a default route through its first interface. */
  defaultRoute?: boolean;
}

export class LanHost {
  constructor(
    readonly name: string,
    readonly namespace: string,
    private readonly number: number,
  ) {}

  /** Its IPv4 address on a network. */
  address(network = 0): string {
    return `10.88.${network}.${this.number + 1}`;
  }

  /** `ip` inside the host, such as `ip('link', 'set', 'eth0', 'down')`. */
  ip(...args: string[]): string {
    return ip('-n', this.namespace, ...args);
  }

  /** Starts a program inside; its pid is the program's own. */
  spawn(file: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
    return spawn('ip', ['netns', 'exec', this.namespace, file, ...args], options);
  }

  /** Runs a program inside to its end; rejects when it fails. */
  async run(
    file: string,
    args: readonly string[],
    env?: NodeJS.ProcessEnv,
  ): Promise<{ stdout: string; stderr: string }> {
    const command = ['netns', 'exec', this.namespace, file, ...args];
    return promisify(execFile)('ip', command, { env: { ...process.env, ...env }, maxBuffer: 16 * 1024 * 1024 });
  }
}

export class Lan {
  readonly #hosts = new Map<string, LanHost>();
  readonly #switch: string;
  readonly #prefix: string;

  constructor(names: readonly string[], options: LanOptions) {
    this.#prefix = `pm-${process.pid}-${randomBytes(2).toString('hex')}`;
    this.#switch = `${this.#prefix}-switch`;
    const networks = options.networks ?? 1;
    ip('netns', 'add', this.#switch);
    for (let network = 0; network < networks; network++) {
      ip('-n', this.#switch, 'link', 'add', `br${network}`, 'type', 'bridge', 'mcast_snooping', '0');
      ip('-n', this.#switch, 'link', 'set', `br${network}`, 'up');
    }
    for (const [number, name] of names.entries()) {
      const host = new LanHost(name, `${this.#prefix}-${name}`, number);
      this.#hosts.set(name, host);
      ip('netns', 'add', host.namespace);
      host.ip('link', 'set', 'lo', 'up');
      const attached = options.attach?.[name] ?? [...Array(networks).keys()];
      for (const network of attached) this.#plug(host, number, network);
      if (options.defaultRoute && attached.length > 0) host.ip('route', 'add', 'default', 'dev', `eth${attached[0]}`);
    }
  }

  host(name: string): LanHost {
    const host = this.#hosts.get(name);
    if (!host) throw new Error(`there is no host ${name} on this LAN`);
    return host;
  }

  #plug(host: LanHost, number: number, network: number): void {
    const port = `h${number}n${network}`;
    const [cable, bridge] = [`eth${network}`, `br${network}`];
    ip('link', 'add', cable, 'netns', host.namespace, 'type', 'veth', 'peer', 'name', port, 'netns', this.#switch);
    ip('-n', this.#switch, 'link', 'set', port, 'master', bridge, 'up');
    host.ip('address', 'add', `${host.address(network)}/24`, 'broadcast', '+', 'dev', cable);
    host.ip('link', 'set', cable, 'up');
  }

  /** Pulls a host's cable out of the switch, or puts it back in: its own end then has no carrier. */
  cable(name: string, plugged: boolean, network = 0): void {
    const number = [...this.#hosts.keys()].indexOf(name);
    ip('-n', this.#switch, 'link', 'set', `h${number}n${network}`, plugged ? 'up' : 'down');
  }

  /** Kills whatever still runs inside and takes everything down. */
  close(): void {
    for (const namespace of [...[...this.#hosts.values()].map((host) => host.namespace), this.#switch]) {
      const pids = ip('netns', 'pids', namespace).split('\n').filter(Boolean);
      for (const pid of pids) process.kill(Number(pid), 'SIGKILL');
      ip('netns', 'del', namespace);
    }
    this.#hosts.clear();
  }
}

/** A LAN for one test, taken down after it. */
export function createLan(t: Pick<Test, 'teardown'>, names: readonly string[], options: LanOptions = {}): Lan {
  const lan = new Lan(names, options);
  t.teardown(() => lan.close());
  return lan;
}
