/** Puts together what keeps the roots of the mesh, and replaces them: the row in the database, the CA directory, the leader. */
import type { Clock } from '../common/clock.js';
import type { Logger } from '../common/log.js';
import type { EmbeddedAuthority, Keeper } from './authority.js';
import type { ControlPlane } from './control-plane.js';
import type { Store } from './ports.js';
import { Rotation } from './services/rotation.js';
import { Trust } from './services/trust.js';
import { checkRoots, followTrust, prepareNextRoot } from './trust-steps.js';

export interface RootsOptions {
  authority: EmbeddedAuthority;
  /** There once the trust is followed. */
  keeper: () => Keeper;
  plane: ControlPlane;
  store: Store;
  /** All coordinators, as `host:port`. */
  coordinators: () => readonly string[];
  /** This coordinator presents or trusts other roots now. */
  onStep: () => void;
  clock: Clock;
  log: Logger;
}

/** @throws MeshError CONFLICT when this coordinator missed a whole rotation */
export async function makeRoots(options: RootsOptions): Promise<{ trust: Trust; rotation: Rotation }> {
  const { authority, keeper, plane, store, coordinators, onStep, clock, log } = options;
  const { directory } = authority;
  const state = await store.trust.claim(directory.authority.rootPem);
  checkRoots(directory, state);
  const trust = new Trust({
    ...{ store: store.trust, state, clock, log },
    follow: async (row) => {
      await followTrust({ directory, credential: () => keeper().credential(), coordinators, clock, log }, row);
      await keeper().reissue();
    },
    onStep: () => {
      plane.roster.refresh();
      onStep();
    },
  });
  const rotation = new Rotation({
    ...{ store, trust, clock, log, roster: plane.roster, audit: plane.audit },
    nodes: () => plane.term?.fleet.all(),
    hasRootKey: () => directory.hasRootKey,
    prepareNextRoot: () => prepareNextRoot(directory, clock.wallMs()),
  });
  return { trust, rotation };
}
