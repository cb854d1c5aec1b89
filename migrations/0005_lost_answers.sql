-- Makes the epoch a key: statements of the leader lock it (`for key share`), and only a takeover waits for them, never a
-- renewal of the lease.
alter table leader add constraint leader_epoch_key unique (epoch);

-- What a token was spent for, by the SHA-256 of the public key: who did not hear that it was spent asks again.
alter table join_token add column spent_by text[] not null default '{}';
