/**
 * The nodes as they are now: their rows, their sessions, their vital signs. Rows in the store are what survives;
 * leases run here, on this process's monotonic clock, from the last heartbeat it received.
 */
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import { type LivenessSettings, NodeLiveness, type NodeTransition, type RoundTrip } from '../core/node.js';
import type { Ledger } from '../core/ledger.js';
import { Pace, Paces } from '../core/pace.js';
import { roomOf } from '../core/room.js';
import { NodeTrust } from '../core/trust.js';
import type { NodeRow } from '../ports.js';
import type { AgentSession } from './session.js';

export class LiveNode {
  session: AgentSession | undefined;
  load = 0;
  /** The agent said that it takes nothing more. */
  stopping = false;
  /** By when the certificate of its session should have been renewed, by the wall clock. */
  renewedByMs = Number.POSITIVE_INFINITY;
  /** It also said that nothing runs there any more: the end of its session is a goodbye. */
  leaving = false;
  roundTrip: RoundTrip | undefined;
  reliability: number;
  finished: number;
  lastHeartbeatAtMs: number | undefined;
  readonly trust = new NodeTrust();
  /** How fast it is, of what ran there. */
  readonly pace: Pace;
  labels: ReadonlyMap<string, string> = new Map();
  executors: ReadonlySet<string> = new Set();
  sandboxes: readonly string[] = [];

  constructor(
    public row: NodeRow,
    readonly liveness: NodeLiveness,
    paces: Paces,
  ) {
    this.pace = new Pace(paces);
    this.reliability = row.reliability;
    this.finished = row.finished;
    this.lastHeartbeatAtMs = row.lastHeartbeatAtMs;
    this.adopt(row);
  }

  /** Takes over what a new hello or an operator changed. */
  adopt(row: NodeRow): void {
    const { capabilities } = row;
    this.row = row;
    this.executors = new Set(capabilities.executors);
    // Older agents know no tiers: they run everything in the weakest.
    this.sandboxes = capabilities.sandboxes.length > 0 ? capabilities.sandboxes : ['process'];
    this.labels = new Map([
      ...Object.entries(capabilities.labels),
      ['name', row.name],
      ['os', capabilities.os],
      ['arch', capabilities.arch],
      ...(capabilities.gpus.length > 0 ? [['gpu', capabilities.gpus[0]?.model ?? ''] as [string, string]] : []),
    ]);
  }
}

export class Fleet {
  readonly #nodes = new Map<number, LiveNode>();
  readonly #byName = new Map<string, LiveNode>();
  /** Undefined when a row has changed since it was counted. */
  #count: number | undefined;
  readonly #paces = new Paces();

  constructor(
    private readonly clock: Clock,
    private readonly log: Logger,
    private readonly liveness: LivenessSettings,
    private readonly ledger: Ledger,
  ) {}

  /** For people; empty when it is not suspended. */
  whySuspended(node: LiveNode): string {
    return node.trust.whySuspended(this.clock.monotonicMs());
  }

  /** Known nodes after a start: each gets a whole lease of grace before it is declared OFFLINE. */
  load(rows: readonly NodeRow[]): void {
    for (const row of rows) this.#add(row, NodeLiveness.recovered(this.liveness, this.clock.monotonicMs()));
  }

  put(row: NodeRow): LiveNode {
    this.#count = undefined;
    this.ledger.setNode(row.seq, roomOf(row.capabilities));
    const known = this.#nodes.get(row.seq);
    if (!known) return this.#add(row, NodeLiveness.connected(this.liveness, this.clock.monotonicMs()));
    known.adopt(row);
    return known;
  }

  #add(row: NodeRow, liveness: NodeLiveness): LiveNode {
    this.#count = undefined;
    const node = new LiveNode(row, liveness, this.#paces);
    this.ledger.setNode(row.seq, roomOf(row.capabilities));
    this.#nodes.set(row.seq, node);
    this.#byName.set(row.name, node);
    return node;
  }

  get(seq: number): LiveNode | undefined {
    return this.#nodes.get(seq);
  }

  byName(name: string): LiveNode | undefined {
    return this.#byName.get(name);
  }

  /** Nodes that may get work some time: neither revoked nor removed. Asked for every result, so it is counted once. */
  count(): number {
    if (this.#count !== undefined) return this.#count;
    let count = 0;
    for (const node of this.all()) if (!node.row.revoked) count++;
    this.#count = count;
    return count;
  }

  /** Those that were removed are none. */
  *all(): IterableIterator<LiveNode> {
    for (const node of this.#nodes.values()) if (!node.row.removed) yield node;
  }

  /** Nodes whose lease is over and that are not connected, removed ones too. */
  *absent(): IterableIterator<LiveNode> {
    for (const node of this.#nodes.values()) if (node.liveness.state === 'OFFLINE' && !node.session?.open) yield node;
  }

  /** @throws MeshError NOT_FOUND when there is none, or it was removed */
  named(name: string): LiveNode {
    const node = this.#byName.get(name);
    if (node && !node.row.removed) return node;
    throw new MeshError('NOT_FOUND', `there is no node "${name.slice(0, 80)}"`, { hint: 'see: mesh nodes' });
  }

  nameOf(seq: number): string {
    return this.#nodes.get(seq)?.row.name ?? `node ${seq}`;
  }

  /** A heartbeat, or anything else that proves the agent alive. */
  alive(node: LiveNode): void {
    node.lastHeartbeatAtMs = this.clock.wallMs();
    const transition = node.liveness.heard(this.clock.monotonicMs());
    if (transition) this.#logTransition(node, transition);
  }

  /** The agent said that it stops. */
  left(node: LiveNode): void {
    this.#leave(node, 'the agent stopped');
  }

  /** Its certificate is revoked: it gets no more work, and nothing more is heard from it. */
  revoked(node: LiveNode): void {
    this.#count = undefined;
    node.row = { ...node.row, revoked: true };
    node.session?.close('its certificate is revoked', true);
    this.log.warn({ event: 'node.revoked', node: node.row.name });
    this.#leave(node, 'its certificate is revoked');
  }

  #leave(node: LiveNode, reason: string): void {
    const transition = node.liveness.left(reason);
    if (transition) this.#logTransition(node, transition);
  }

  /** It is here with a certificate that it should have renewed by now: something keeps it from doing so. */
  isRenewalOverdue({ session, renewedByMs }: LiveNode): boolean {
    return session?.open === true && this.clock.wallMs() > renewedByMs;
  }

  /** This process stood still; the silence is not the nodes'. */
  excuse(stalledMs: number): void {
    for (const node of this.#nodes.values()) node.liveness.excuse(stalledMs);
  }

  /** Nodes whose lease ended since the last look. */
  expired(): LiveNode[] {
    const nowMs = this.clock.monotonicMs();
    const offline: LiveNode[] = [];
    for (const node of this.#nodes.values()) {
      const transition = node.liveness.tick(nowMs);
      if (!transition) continue;
      this.#logTransition(node, transition);
      if (transition.to === 'OFFLINE') offline.push(node);
    }
    return offline;
  }

  #logTransition(node: LiveNode, transition: NodeTransition): void {
    const { from, to, reason } = transition;
    const level = to === 'HEALTHY' ? 'info' : 'warn';
    this.log[level](
      { event: `node.${to.toLowerCase()}`, node: node.row.name, from, reason },
      `${node.row.name} is ${to}`,
    );
  }
}
