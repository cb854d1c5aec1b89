/**
 * Calls that follow the lead. Of several coordinators only the one that leads serves everything; one that stands by
 * refuses with NOT_LEADER and names the others. A call that was refused so, or broken off while the lead changed, is made
 * again at the coordinator that leads now, found by asking every known address at once whether it leads.
 *
 * Repeated are: whatever was refused with NOT_LEADER, because nothing was done; and, when the coordinator went away in
 * the middle, calls that may be done twice. A stream of which something was heard is left to its caller, who knows how
 * far it came; so is one that the caller feeds, but it begins only once the leader is known.
 */
import type { Client } from '@grpc/grpc-js';
import { pause, systemClock } from '../common/clock.js';
import { MeshError, toMeshError } from '../common/errors.js';
import { type Endpoint, formatEndpoint, parseEndpoint } from '../link/endpoints.js';
import { MeshServiceService } from '../proto/gen/mesh/v1/mesh.js';
import { type Api, type CallOptions, makeApi, type News } from './api.js';
import { readyClient } from './channel.js';

export interface LeadOptions {
  client: Client;
  address: string;
  /** `host:port` of every coordinator that is known. */
  addresses: readonly string[];
  open: (endpoint: Endpoint) => Client;
  /** The coordinator at this address leads. */
  onMoved: (address: string) => void;
  /** The mesh may be reached at these too. */
  onLearned: (addresses: string[]) => void;
  /** How long another coordinator is looked for; 30 s when absent: several leases. */
  patienceMs?: number;
}

const PATIENCE_MS = 30_000;
const READY_MS = 2000;
const ANSWER_MS = 2000;
const AGAIN_MS = 300;
const ADDRESSES_MAX = 32;

/** Calls that change nothing, or nothing more when they are made again. */
const REPEATABLE: ReadonlySet<string> = new Set([
  'getJob',
  'listJobs',
  'listTasks',
  'explain',
  'listNodes',
  'getNode',
  'drainNode',
  'missingBlobs',
  // By the keys of its jobs.
  'submitJobs',
  'listTokens',
  'listWaiting',
  'listCertificates',
  'setSecret',
  'listSecrets',
  'listAudit',
  'examine',
  'startRotation',
  'getRotation',
]);

type Answer = 'leads' | 'gone' | readonly string[];

/** The channel to the coordinator that leads. */
export class Lead {
  readonly #options: LeadOptions;
  readonly #addresses: Set<string>;
  #client: Client;
  #sure = false;
  #moving: Promise<boolean> | undefined;
  #closed = false;
  /** The mesh asks for a renewal of the certificate. */
  onRenewalWanted: () => void = () => undefined;

  constructor(options: LeadOptions) {
    this.#options = options;
    this.#client = options.client;
    this.#addresses = new Set([options.address, ...options.addresses]);
  }

  get client(): Client {
    return this.#client;
  }

  /** Makes sure, once per channel, that it leads to the leader. */
  async ensure(): Promise<void> {
    if (this.#sure) return;
    const client = this.#client;
    const answer = await ask(client);
    if (answer === 'leads') this.#sure = true;
    else if (answer !== 'gone') await this.#move(client, answer);
  }

  /** True when the call that failed so on `failed` should be made again. */
  async recover(error: unknown, failed: Client, repeatable: boolean): Promise<boolean> {
    const { code, coordinators } = toMeshError(error);
    const refused = code === 'NOT_LEADER';
    if (this.#closed || (!refused && !(repeatable && code === 'UNREACHABLE'))) return false;
    if (this.#client !== failed) return true;
    return this.#move(failed, coordinators);
  }

  close(): void {
    this.#closed = true;
    this.#client.close();
  }

  #move(failed: Client, named: readonly string[]): Promise<boolean> {
    for (const address of named) this.#learn(address);
    this.#moving ??= this.#find(failed).finally(() => (this.#moving = undefined));
    return this.#moving;
  }

  #learn(address: string): void {
    if (this.#addresses.size < ADDRESSES_MAX) this.#addresses.add(address);
  }

  /** What an answer said besides. */
  heard({ coordinators, renew }: News): void {
    const fresh = coordinators.filter((address) => !this.#addresses.has(address));
    for (const address of fresh) this.#learn(address);
    if (fresh.length > 0) this.#options.onLearned(fresh);
    if (renew) this.onRenewalWanted();
  }

  async #find(failed: Client): Promise<boolean> {
    const untilMs = systemClock.monotonicMs() + (this.#options.patienceMs ?? PATIENCE_MS);
    while (!this.#closed && systemClock.monotonicMs() < untilMs) {
      const found = await this.#look();
      if (found) {
        this.#client = found.client;
        this.#sure = true;
        failed.close();
        this.#options.onMoved(formatEndpoint(found.endpoint));
        return true;
      }
      await pause(systemClock, AGAIN_MS);
    }
    return false;
  }

  /** Every known address at once; the first that leads. */
  async #look(): Promise<{ client: Client; endpoint: Endpoint } | undefined> {
    const tries = [...this.#addresses].map(async (address) => {
      const reached = await readyClient([parseEndpoint(address)], this.#options.open, READY_MS);
      const answer = reached ? await ask(reached.client) : 'gone';
      if (reached && answer === 'leads') return reached;
      reached?.client.close();
      if (typeof answer !== 'string') for (const other of answer) this.#learn(other);
      throw new MeshError('NOT_LEADER', `${address} does not lead`);
    });
    const found = await Promise.any(tries).catch(() => undefined);
    for (const attempt of tries)
      void attempt.then(
        (other) => {
          if (other !== found) other.client.close();
        },
        () => undefined,
      );
    return found;
  }
}

/** Only the leader answers for a single node, and no node has an empty name: the cheapest question there is. */
async function ask(client: Client): Promise<Answer> {
  try {
    await makeApi(client, MeshServiceService).getNode({ name: '' }, { deadlineMs: ANSWER_MS });
    return 'leads';
  } catch (error) {
    const { code, coordinators } = toMeshError(error);
    if (code === 'NOT_LEADER') return coordinators;
    return code === 'UNREACHABLE' || code === 'TIMED_OUT' || code === 'INTERRUPTED' ? 'gone' : 'leads';
  }
}

interface Shape {
  requestStream: boolean;
  responseStream: boolean;
}

type AnyCall = (request: unknown, options?: CallOptions) => unknown;

/** Every method of `service`, called where the lead is. */
export function makeFollowingApi<Service extends object>(lead: Lead, service: Service): Api<Service> {
  const apis = new WeakMap<Client, Record<string, AnyCall>>();
  const apiOf = (client: Client): Record<string, AnyCall> => {
    let api = apis.get(client);
    if (!api)
      apis.set(
        client,
        (api = makeApi(client, service, (news) => lead.heard(news)) as unknown as Record<string, AnyCall>),
      );
    return api;
  };
  const calls: Record<string, AnyCall> = {};
  for (const [name, { requestStream, responseStream }] of Object.entries(service) as [string, Shape][]) {
    const at = (client: Client): AnyCall => apiOf(client)[name] as AnyCall;
    if (requestStream && responseStream) calls[name] = () => at(lead.client)(undefined);
    else if (requestStream) calls[name] = clientStream(lead, at);
    else if (responseStream) calls[name] = serverStream(lead, at);
    else calls[name] = unary(lead, at, REPEATABLE.has(name));
  }
  return calls as unknown as Api<Service>;
}

const unary =
  (lead: Lead, at: (client: Client) => AnyCall, repeatable: boolean): AnyCall =>
  async (request, options) => {
    for (;;) {
      const { client } = lead;
      try {
        return await (at(client)(request, options) as Promise<unknown>);
      } catch (error) {
        if (options?.signal?.aborted || !(await lead.recover(error, client, repeatable))) throw error;
      }
    }
  };

const serverStream = (lead: Lead, at: (client: Client) => AnyCall): AnyCall =>
  async function* (request, options) {
    for (let begun = false; ; ) {
      const { client } = lead;
      try {
        for await (const message of at(client)(request, options) as AsyncIterable<unknown>) {
          begun = true;
          yield message;
        }
        return;
      } catch (error) {
        if (begun || options?.signal?.aborted || !(await lead.recover(error, client, true))) throw error;
      }
    }
  };

const clientStream =
  (lead: Lead, at: (client: Client) => AnyCall): AnyCall =>
  async (requests, options) => {
    await lead.ensure();
    return at(lead.client)(requests, options);
  };
