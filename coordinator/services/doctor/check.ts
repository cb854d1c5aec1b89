import type { Finding } from '../../../common/finding.js';
import type { Store } from '../../ports.js';
import type { AuditWitness } from '../audit-witness.js';

/** What the checks of a coordinator look at. */
export interface Examined {
  readonly config: {
    readonly dataDir: string;
    readonly caPassphraseFile: string | undefined;
    readonly approveNodes: boolean;
    /** How long after its end a certificate may still buy another, in milliseconds; 0: never. */
    readonly recoverWithin: number;
  };
  readonly store: Store;
  readonly witness: AuditWitness;
  /** Why the way to the database is not safe; undefined when it is, or never leaves this machine. */
  readonly databaseWarning: string | undefined;
  readonly nowMs: number;
}

/** Looks at one kind of setting; finds nothing where all is well. */
export type Check = (mesh: Examined) => Promise<Finding[]> | Finding[];
