import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { Heartbeat, HeartbeatReply } from '../../proto/gen/mesh/v1/agent.js';
import type { Ledger } from '../core/ledger.js';
import { smoothRoundTrip } from '../core/node.js';
import type { NodeRow, NodeStore } from '../ports.js';
import type { Fleet, LiveNode } from './fleet.js';
import type { Results } from './results.js';

const SAVE_EVERY_MS = 5000;

export interface VitalsOptions {
  nodes: NodeStore;
  fleet: Fleet;
  ledger: Ledger;
  results: Results;
  clock: Clock;
  log: Logger;
  epoch: () => number;
  heartbeatMs: number;
  holdsLead: () => boolean;
  /** Every live coordinator, as `host:port`, the leader's addresses first. */
  coordinators: () => string[];
  /** The step of a rotation for which the holder of a certificate is asked to renew it; 0 for none. */
  renewalWanted: (serial: string) => number;
  onCapacity: () => void;
}

/** Heartbeats in; leases watched; what was learned saved every few seconds; drain and undrain. */
export class Vitals implements Service {
  readonly name = 'vitals';
  readonly #options: VitalsOptions;
  readonly #watch: Loop;
  readonly #save: Loop;
  #lastTurnMs = Number.POSITIVE_INFINITY;

  constructor(options: VitalsOptions) {
    this.#options = options;
    const { clock, log } = options;
    this.#watch = new Loop({
      name: 'vitals.watch',
      clock,
      everyMs: options.heartbeatMs / 4,
      turn: async () => this.#giveAway(),
      onError: (error) => log.error({ event: 'vitals.failed', err: error }),
    });
    this.#save = new Loop({
      name: 'vitals.save',
      clock,
      everyMs: SAVE_EVERY_MS,
      turn: () => this.#saveVitals(),
      onError: (error) => log.warn({ event: 'vitals.unsaved', err: error }),
    });
  }

  async start(): Promise<void> {
    await this.#watch.start();
    await this.#save.start();
  }

  async stop(): Promise<void> {
    await this.#watch.stop();
    await this.#save.stop();
  }

  /**
   * Takes a heartbeat; what to answer. The echo of the last reply's ping, less the time it was held, is the RTT.
   * Undefined while this coordinator cannot be sure to lead: an answer extends the agent's lease, and another one may be
   * about to give its work away (I8). If it turns out that it still leads, the next heartbeat is answered.
   */
  heartbeat(node: LiveNode, beat: Heartbeat): HeartbeatReply | undefined {
    const { fleet, clock, epoch, onCapacity } = this.#options;
    const nowUs = Math.round(clock.monotonicMs() * 1000);
    const wasHealthy = node.liveness.state === 'HEALTHY';
    fleet.alive(node);
    node.stopping = beat.stopping;
    node.leaving = beat.stopping && beat.running === 0;
    node.load = Number.isFinite(beat.load) ? Math.min(1, Math.max(0, beat.load)) : 0;
    if (beat.echoUs > 0) {
      const sampleMs = (nowUs - beat.echoUs - beat.echoHeldUs) / 1000;
      node.roundTrip = smoothRoundTrip(node.roundTrip, sampleMs);
    }
    if (!wasHealthy) onCapacity();
    if (!this.#options.holdsLead()) return undefined;
    // A plain literal: with properties after a spread it took a twentieth of all that idle agents cost.
    return {
      sequence: beat.sequence,
      pingUs: nowUs,
      epoch: epoch(),
      draining: node.row.draining,
      coordinators: node.session?.news(this.#options.coordinators()) ?? [],
      renew: this.#options.renewalWanted(node.row.certificateSerial),
    };
  }

  async setDraining(name: string, draining: boolean): Promise<LiveNode> {
    const { nodes, fleet, onCapacity, log } = this.#options;
    const row: NodeRow | undefined = await nodes.setDraining(name, draining);
    if (!row) throw new MeshError('NOT_FOUND', `there is no node "${name}"`, { hint: 'see: mesh nodes' });
    log.info({ event: draining ? 'node.draining' : 'node.undrained', node: name });
    const node = fleet.put(row);
    onCapacity();
    return node;
  }

  /** A turn that comes much too late means that this process stood still, not that every node fell silent. */
  #excuseStall(): void {
    const nowMs = this.#options.clock.monotonicMs();
    const lateMs = nowMs - this.#lastTurnMs - this.#options.heartbeatMs / 4;
    this.#lastTurnMs = nowMs;
    if (lateMs > this.#options.heartbeatMs) this.#options.fleet.excuse(lateMs);
  }

  #giveAway(): void {
    const { fleet, ledger, results, clock } = this.#options;
    this.#excuseStall();
    const wallMs = clock.wallMs();
    for (const node of fleet.all())
      if (node.session?.open && wallMs > node.row.certificateExpiresAtMs)
        node.session.close('its certificate has expired', false);
    for (const node of fleet.expired()) {
      node.session?.close('its lease is over', false);
      ledger.releaseAll(node.row.seq);
      const attempts = ledger.ofNode(node.row.seq);
      if (attempts.length > 0)
        results.lost(attempts, 'node-lost', `${node.row.name} was not heard of for a whole lease`);
    }
    // An assignment that was under way when its node left was committed after the node's work was given away.
    for (const node of fleet.absent())
      results.lost(ledger.ofNode(node.row.seq), 'shutdown', `${node.row.name} had left before it could be told`);
  }

  async #saveVitals(): Promise<void> {
    const rows = [...this.#options.fleet.all()]
      .filter((node) => node.lastHeartbeatAtMs !== undefined)
      .map(({ row, reliability, finished, lastHeartbeatAtMs }) => ({
        seq: row.seq,
        reliability,
        finished,
        lastHeartbeatAtMs: lastHeartbeatAtMs as number,
      }));
    if (rows.length > 0) await this.#options.nodes.saveVitals(rows);
  }
}
