import { join } from 'node:path';
import { coordinatorExposures, exposure } from '../../../common/exposure.js';
import { readIfExists } from '../../../common/files.js';
import { finding } from '../../../common/finding.js';
import type { Check } from './check.js';

export const fileModes: Check = ({ config: { dataDir, caPassphraseFile } }) => [
  ...coordinatorExposures('files.modes', dataDir),
  ...(caPassphraseFile === undefined ? [] : exposure('files.modes', 'secret', caPassphraseFile)),
];

const isSealed = (pem: string): boolean => pem.includes('-----BEGIN ENCRYPTED PRIVATE KEY-----');

export const caKeys: Check = ({ config: { dataDir } }) => {
  const directory = join(dataDir, 'ca');
  const [root, issuer] = ['ca.key', 'issuer.key'].map((name) => readIfExists(join(directory, name)));
  const open = [root, issuer].some((pem) => pem !== undefined && !isSealed(pem));
  return [
    ...(open
      ? [
          finding(
            'ca.passphrase',
            'weak',
            `the keys in ${directory} are not encrypted: who copies the disk or a backup is the CA`,
            `mesh-ca passphrase set --dir ${directory}, then start the coordinator with --ca-passphrase-file`,
          ),
        ]
      : []),
    ...(root === undefined
      ? []
      : [
          finding(
            'ca.root-key',
            'notice',
            "the root's key is on the coordinator; it is needed only to admit or renew coordinators",
            `mesh-ca root export --dir ${directory} --out FILE, and keep the file elsewhere`,
          ),
        ]),
  ];
};
