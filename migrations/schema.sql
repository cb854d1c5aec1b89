-- What the migrations add up to. Made by npm run schema; compared by a test.

create table audit (
  seq bigint not null,
  at timestamp with time zone not null,
  actor text not null,
  action text not null,
  target text not null,
  detail text not null,
  address text not null,
  certificate text not null,
  previous bytea not null,
  hash bytea not null,
  constraint audit_chain CHECK (seq >= 1 AND octet_length(previous) = 32 AND octet_length(hash) = 32),
  constraint audit_pkey PRIMARY KEY (seq),
  constraint audit_text CHECK ((octet_length(actor) + octet_length(target) + octet_length(detail)) <= 65536)
);
CREATE INDEX audit_at ON audit USING btree (at);
CREATE TRIGGER audit_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

create table blob (
  digest text not null,
  size_bytes bigint not null,
  created_at timestamp with time zone not null default now(),
  last_used_at timestamp with time zone not null default now(),
  constraint blob_digest CHECK (digest ~ '^[0-9a-f]{64}$'::text),
  constraint blob_pkey PRIMARY KEY (digest),
  constraint blob_size CHECK (size_bytes >= 0)
);
CREATE INDEX blob_last_used ON blob USING btree (last_used_at);

create table blob_content (
  digest text not null,
  part integer not null,
  bytes bytea not null,
  created_at timestamp with time zone not null default now(),
  constraint blob_content_digest CHECK (digest ~ '^[0-9a-f]{64}$'::text),
  constraint blob_content_pkey PRIMARY KEY (digest, part),
  constraint blob_content_ranges CHECK (part >= 0 AND octet_length(bytes) <= 1048576)
);
CREATE INDEX blob_content_created ON blob_content USING btree (created_at);

create table certificate (
  serial text not null,
  role text not null,
  name text not null,
  fingerprint text not null,
  public_key_digest text not null,
  not_before timestamp with time zone not null,
  not_after timestamp with time zone not null,
  revoked_at timestamp with time zone,
  token_id text,
  pem text not null,
  created_at timestamp with time zone not null default now(),
  lifetime_ms bigint,
  root text,
  trusts text[],
  constraint certificate_lifetime CHECK (lifetime_ms > 0),
  constraint certificate_pkey PRIMARY KEY (serial),
  constraint certificate_role CHECK (role = ANY (ARRAY['agent'::text, 'coordinator'::text, 'operator'::text, 'submitter'::text, 'viewer'::text, 'metrics'::text])),
  constraint certificate_validity CHECK (not_after > not_before)
);
CREATE INDEX certificate_holder ON certificate USING btree (role, name, not_after);
CREATE INDEX certificate_name ON certificate USING btree (name);
CREATE INDEX certificate_revoked ON certificate USING btree (not_after) WHERE (revoked_at IS NOT NULL);
CREATE INDEX certificate_token ON certificate USING btree (token_id, public_key_digest) WHERE (token_id IS NOT NULL);

create table coordinator (
  id text not null,
  name text not null,
  addresses text[] not null,
  version text not null,
  seen_at timestamp with time zone not null default now(),
  trust_generation bigint not null default 0,
  constraint coordinator_id CHECK (id <> ''::text),
  constraint coordinator_pkey PRIMARY KEY (id)
) with (fillfactor=50);

create table job (
  seq bigint not null generated always as identity,
  id text not null,
  submitter text not null,
  idempotency_key text not null,
  spec_digest text not null,
  name text not null,
  type text not null,
  priority integer not null,
  on_failure text not null,
  spec jsonb not null,
  retry_of text,
  has_inputs boolean not null,
  status text not null default 'QUEUED'::text,
  cancelling boolean not null default false,
  error text,
  total integer not null,
  materialised integer not null default 0,
  skipped integer not null default 0,
  cursor integer not null default 0,
  queued integer not null default 0,
  assigned integer not null default 0,
  running integer not null default 0,
  retrying integer not null default 0,
  completed integer not null default 0,
  failed integer not null default 0,
  cancelled integer not null default 0,
  created_at timestamp with time zone not null default now(),
  started_at timestamp with time zone,
  completed_at timestamp with time zone,
  namespace text not null default 'default'::text,
  staged_bytes bigint not null default 0,
  constraint job_cancelled CHECK (status <> 'CANCELLED'::text OR cancelling),
  constraint job_completed CHECK (status <> 'COMPLETED'::text OR completed = total),
  constraint job_counters CHECK (materialised = (queued + assigned + running + retrying + completed + failed + cancelled)),
  constraint job_ended CHECK ((completed_at IS NOT NULL) = (status <> ALL (ARRAY['QUEUED'::text, 'RUNNING'::text]))),
  constraint job_ended_complete CHECK (completed_at IS NULL OR (completed + failed + cancelled) = total),
  constraint job_id_key UNIQUE (id),
  constraint job_on_failure CHECK (on_failure = ANY (ARRAY['finish'::text, 'fail-fast'::text, 'partial'::text])),
  constraint job_partial CHECK (status <> 'PARTIALLY_COMPLETED'::text OR on_failure = 'partial'::text AND completed > 0 AND failed > 0),
  constraint job_pkey PRIMARY KEY (seq),
  constraint job_ranges CHECK (total >= 1 AND materialised >= 0 AND materialised <= total AND skipped >= 0 AND skipped <= cancelled AND cursor >= 0 AND cursor <= materialised AND queued >= 0 AND assigned >= 0 AND running >= 0 AND retrying >= 0 AND completed >= 0 AND failed >= 0 AND cancelled >= 0),
  constraint job_staged_bytes CHECK (staged_bytes >= 0),
  constraint job_started CHECK (status <> 'QUEUED'::text OR started_at IS NULL),
  constraint job_status CHECK (status = ANY (ARRAY['QUEUED'::text, 'RUNNING'::text, 'COMPLETED'::text, 'FAILED'::text, 'PARTIALLY_COMPLETED'::text, 'CANCELLED'::text])),
  constraint job_submission UNIQUE (submitter, idempotency_key),
  constraint job_type CHECK (type = ANY (ARRAY['process'::text, 'function'::text]))
) with (autovacuum_vacuum_cost_delay=0, autovacuum_vacuum_scale_factor=0.05, fillfactor=50);
CREATE INDEX job_completed_at ON job USING btree (completed_at) WHERE (completed_at IS NOT NULL);
CREATE INDEX job_live ON job USING btree (seq) WHERE (completed_at IS NULL);
CREATE INDEX job_of_status ON job USING btree (status, seq);
CREATE INDEX job_of_submitter ON job USING btree (submitter, seq);
CREATE INDEX job_staged ON job USING btree (namespace) INCLUDE (staged_bytes) WHERE (staged_bytes > 0);

create table job_input (
  job_id text not null,
  from_index integer not null,
  to_index integer not null,
  inputs text[] not null,
  created_at timestamp with time zone not null default now(),
  constraint job_input_pkey PRIMARY KEY (job_id, from_index),
  constraint job_input_range CHECK (from_index >= 0 AND to_index = (from_index + cardinality(inputs)))
);
CREATE INDEX job_input_created ON job_input USING btree (created_at);
CREATE TRIGGER job_input_kept BEFORE DELETE ON job_input FOR EACH ROW EXECUTE FUNCTION keep_inputs();

create table join_request (
  public_key_digest text not null,
  token_id text not null,
  name text not null,
  csr bytea not null,
  address text not null,
  requested_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  refused_by text,
  constraint join_request_digest CHECK (public_key_digest ~ '^[0-9a-f]{64}$'::text),
  constraint join_request_expiry CHECK (expires_at > requested_at),
  constraint join_request_pkey PRIMARY KEY (public_key_digest),
  constraint join_request_token_id_fkey FOREIGN KEY (token_id) REFERENCES join_token(id) ON DELETE CASCADE
);
CREATE INDEX join_request_token ON join_request USING btree (token_id);
CREATE UNIQUE INDEX join_request_waiting ON join_request USING btree (name) WHERE (refused_by IS NULL);

create table join_token (
  id text not null,
  secret_digest text not null,
  role text not null,
  name text,
  replace boolean not null,
  uses_left integer not null,
  expires_at timestamp with time zone not null,
  created_by text not null,
  created_at timestamp with time zone not null default now(),
  spent_by text[] not null default '{}'::text[],
  constraint join_token_pkey PRIMARY KEY (id),
  constraint join_token_role CHECK (role = ANY (ARRAY['agent'::text, 'coordinator'::text, 'operator'::text, 'submitter'::text, 'viewer'::text, 'metrics'::text])),
  constraint join_token_uses CHECK (uses_left >= 0)
);

create table leader (
  id smallint not null default 1,
  epoch bigint not null,
  holder text not null,
  renewals bigint not null default 0,
  constraint leader_epoch_key UNIQUE (epoch),
  constraint leader_pkey PRIMARY KEY (id),
  constraint leader_ranges CHECK (epoch >= 1 AND renewals >= 0),
  constraint leader_single CHECK (id = 1)
) with (fillfactor=50);

create table namespace (
  name text not null,
  running_max integer,
  queued_max bigint,
  cpu_millis_max bigint,
  bytes_max bigint,
  created_at timestamp with time zone not null default now(),
  constraint namespace_name CHECK (name ~ '^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$'::text),
  constraint namespace_pkey PRIMARY KEY (name),
  constraint namespace_ranges CHECK (running_max >= 1 AND queued_max >= 0 AND cpu_millis_max >= 1 AND bytes_max >= 0)
);

create table namespace_member (
  submitter text not null,
  namespace text not null,
  constraint namespace_member_namespace_fkey FOREIGN KEY (namespace) REFERENCES namespace(name) ON DELETE CASCADE,
  constraint namespace_member_pkey PRIMARY KEY (submitter)
);
CREATE INDEX namespace_members ON namespace_member USING btree (namespace);

create table node (
  seq integer not null generated always as identity,
  id text not null,
  name text not null,
  capabilities jsonb not null,
  version text not null,
  boot_id text not null,
  reliability double precision not null default 1,
  finished bigint not null default 0,
  draining boolean not null default false,
  revoked boolean not null default false,
  certificate_serial text not null,
  certificate_fingerprint text not null,
  certificate_expires_at timestamp with time zone not null,
  last_heartbeat_at timestamp with time zone,
  created_at timestamp with time zone not null default now(),
  removed boolean not null default false,
  constraint node_id_key UNIQUE (id),
  constraint node_name_key UNIQUE (name),
  constraint node_pkey PRIMARY KEY (seq),
  constraint node_ranges CHECK (reliability >= 0::double precision AND reliability <= 1::double precision AND finished >= 0)
) with (fillfactor=70);

create table secret (
  owner text not null,
  name text not null,
  revision text not null,
  key_id text not null,
  sealed bytea not null,
  size_bytes integer not null,
  is_text boolean not null,
  set_by text not null,
  set_at timestamp with time zone not null default now(),
  constraint secret_name CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$'::text),
  constraint secret_owner CHECK (owner ~ '^(everyone|(operator|submitter)/[a-z0-9-]{1,63})$'::text),
  constraint secret_pkey PRIMARY KEY (owner, name),
  constraint secret_size CHECK (size_bytes >= 1 AND size_bytes <= 65536 AND octet_length(sealed) = (size_bytes + 28))
);

create table setting (
  key text not null,
  value text not null,
  constraint setting_pkey PRIMARY KEY (key)
);

create table task (
  job bigint not null,
  index integer not null,
  generation integer not null default 0,
  queued_at timestamp with time zone not null default now(),
  failures smallint not null default 0,
  losses smallint not null default 0,
  status text not null default 'QUEUED'::text,
  node integer,
  exit_code integer,
  due_at timestamp with time zone,
  assigned_at timestamp with time zone,
  running_at timestamp with time zone,
  started_at timestamp with time zone,
  finished_at timestamp with time zone,
  run_us bigint,
  peak_memory_bytes bigint,
  failed_nodes integer[],
  input text,
  last_error text,
  result_json text,
  output bytea,
  constraint task_pkey PRIMARY KEY (job, index),
  constraint task_ranges CHECK (index >= 0 AND generation >= 0 AND failures >= 0 AND losses >= 0),
  constraint task_state CHECK (
CASE status
    WHEN 'QUEUED'::text THEN finished_at IS NULL AND (due_at IS NOT NULL OR generation = 0)
    WHEN 'ASSIGNED'::text THEN finished_at IS NULL AND due_at IS NULL AND running_at IS NULL AND assigned_at IS NOT NULL AND node IS NOT NULL
    WHEN 'RUNNING'::text THEN finished_at IS NULL AND due_at IS NULL AND running_at IS NOT NULL AND started_at IS NOT NULL AND node IS NOT NULL
    WHEN 'RETRYING'::text THEN finished_at IS NULL AND due_at IS NOT NULL AND node IS NOT NULL
    WHEN 'COMPLETED'::text THEN finished_at IS NOT NULL AND due_at IS NULL AND node IS NOT NULL
    WHEN 'FAILED'::text THEN finished_at IS NOT NULL AND due_at IS NULL AND (failures + losses) > 0
    WHEN 'CANCELLED'::text THEN finished_at IS NOT NULL AND due_at IS NULL
    ELSE false
END)
) with (autovacuum_analyze_scale_factor=1, autovacuum_vacuum_cost_delay=0, autovacuum_vacuum_insert_scale_factor=2, autovacuum_vacuum_scale_factor=0.1, fillfactor=40);
CREATE INDEX task_returned ON task USING btree (job, due_at) WHERE (due_at IS NOT NULL);

create table task_attempt (
  job bigint not null,
  index integer not null,
  generation integer not null,
  attempt integer not null,
  node integer not null,
  outcome text not null,
  error text,
  exit_code integer,
  signal text,
  started_at timestamp with time zone,
  finished_at timestamp with time zone not null,
  output bytea,
  constraint task_attempt_outcome CHECK (outcome = ANY (ARRAY['failed'::text, 'timed-out'::text, 'cancelled'::text, 'shutdown'::text, 'node-fault'::text, 'node-lost'::text, 'retracted'::text])),
  constraint task_attempt_pkey PRIMARY KEY (job, index, generation, attempt),
  constraint task_attempt_ranges CHECK (index >= 0 AND generation >= 1 AND attempt >= 1)
);

create table task_block (
  job bigint not null,
  first integer not null,
  after integer not null,
  node integer not null,
  assigned_at timestamp with time zone not null,
  settled_at timestamp with time zone not null default now(),
  age_ms integer[] not null,
  run_us bigint[],
  results text[],
  result text,
  exit_code integer,
  constraint task_block_bounds CHECK (first >= 0 AND after > first),
  constraint task_block_pkey PRIMARY KEY (job, first),
  constraint task_block_sizes CHECK (cardinality(age_ms) = (after - first) AND (run_us IS NULL OR cardinality(run_us) = (after - first)) AND (results IS NULL OR cardinality(results) = (after - first)))
) with (autovacuum_vacuum_cost_delay=0);

create table task_original (
  job bigint not null,
  index integer not null,
  generation integer not null,
  node integer not null,
  copy_generation integer not null,
  attempt integer not null,
  alone boolean not null default false,
  running_at timestamp with time zone not null,
  started_at timestamp with time zone not null,
  constraint task_original_pkey PRIMARY KEY (job, index),
  constraint task_original_ranges CHECK (index >= 0 AND generation >= 1 AND copy_generation > generation AND attempt >= 1)
);

create table task_range (
  job bigint not null,
  first integer not null,
  after integer not null,
  node integer not null,
  assigned_at timestamp with time zone not null default now(),
  out int4multirange not null default '{}'::int4multirange,
  constraint task_range_bounds CHECK (first >= 0 AND after > first AND "out" <@ int4multirange(int4range(first, after))),
  constraint task_range_pkey PRIMARY KEY (job, first)
) with (autovacuum_vacuum_cost_delay=0, fillfactor=50);

create table trust (
  id smallint not null default 1,
  generation bigint not null default 1,
  phase text not null default 'steady'::text,
  root text not null,
  next_root text,
  next_root_endorsement text,
  started_at timestamp with time zone,
  constraint trust_generation CHECK (generation >= 1),
  constraint trust_next CHECK ((phase = 'steady'::text) = (next_root IS NULL) AND (next_root IS NULL) = (started_at IS NULL) AND (next_root IS NULL) = (next_root_endorsement IS NULL)),
  constraint trust_phase CHECK (phase = ANY (ARRAY['steady'::text, 'spreading'::text, 'moving'::text])),
  constraint trust_pkey PRIMARY KEY (id),
  constraint trust_single CHECK (id = 1)
) with (fillfactor=50);

CREATE OR REPLACE FUNCTION append_audit(entries jsonb, again boolean)
 RETURNS TABLE(head_seq bigint, head_hash bytea)
 LANGUAGE plpgsql
AS $function$
declare
  last record;
begin
  perform pg_advisory_xact_lock(hashtextextended('audit', 0));
  select seq, hash into head_seq, head_hash from audit order by seq desc limit 1;
  if head_seq is null then
    head_seq := 0;
    head_hash := decode(repeat('00', 32), 'hex');
  end if;
  with given as (
    select head_seq + row_number() over (order by position) as seq,
      timestamptz 'epoch' + e.at_us * interval '1 microsecond' as at, e.*
    from rows from (
      jsonb_to_recordset(entries) as (
        at_us bigint, actor text, address text, certificate text, action text, target text, detail text
      )
    ) with ordinality as e(at_us, actor, address, certificate, action, target, detail, position)
    where not again or not exists (
      select from audit a
      where a.at = timestamptz 'epoch' + e.at_us * interval '1 microsecond' and a.actor = e.actor
        and a.address = e.address and a.certificate = e.certificate and a.action = e.action and a.target = e.target
        and a.detail = e.detail
    )
  ), hashed as (
    select *, audit_links(head_hash, audit_body(seq, at, actor, address, certificate, action, target, detail))
      over (order by seq rows unbounded preceding) as hash
    from given
  ), appended as (
    insert into audit (seq, at, actor, address, certificate, action, target, detail, previous, hash)
    select seq, at, actor, address, certificate, action, target, detail,
      lag(hash, 1, head_hash) over (order by seq), hash
    from hashed
    returning audit.seq, audit.hash
  )
  select a.seq, a.hash into last from appended a order by a.seq desc limit 1;
  if found then
    head_seq := last.seq;
    head_hash := last.hash;
  end if;
  return next;
end
$function$;

CREATE OR REPLACE FUNCTION audit_body(seq bigint, at timestamp with time zone, actor text, address text, certificate text, action text, target text, detail text)
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN (((((((audit_field((seq)::text) || audit_field((((EXTRACT(epoch FROM at) * (1000000)::numeric))::bigint)::text)) || audit_field(actor)) || audit_field(address)) || audit_field(certificate)) || audit_field(action)) || audit_field(target)) || audit_field(detail));

CREATE OR REPLACE FUNCTION audit_field(field text)
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN (((octet_length(convert_to(field, 'UTF8'::name)) || ':'::text) || field) || ','::text);

CREATE OR REPLACE FUNCTION audit_link(hash bytea, first bytea, body text)
 RETURNS bytea
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN sha256((COALESCE(hash, first) || convert_to(body, 'UTF8'::name)));

CREATE OR REPLACE FUNCTION job_outcome(started boolean, live integer, missing integer, cancelling boolean, error text, on_failure text, completed integer, failed integer)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  select case
    when live > 0 or missing > 0 then case when started then 'RUNNING' else 'QUEUED' end
    when cancelling then case when error is null then 'CANCELLED' else 'FAILED' end
    when failed = 0 then 'COMPLETED'
    when on_failure = 'partial' and completed > 0 then 'PARTIALLY_COMPLETED'
    else 'FAILED'
  end
$function$;

CREATE OR REPLACE FUNCTION keep_inputs()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  if exists (select from job where id = old.job_id and completed_at is null) then
    return null;
  end if;
  return old;
end
$function$;

CREATE OR REPLACE FUNCTION record_certificate(given certificate, same_holder boolean, at timestamp with time zone)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
begin
  perform pg_advisory_xact_lock(hashtextextended('certificate/' || given.role || '/' || given.name, 0));
  if given.revoked_at is null and not same_holder and exists (
    select from certificate c
    where c.role = given.role and c.name = given.name and c.not_after > at and c.revoked_at is null
      and c.public_key_digest <> given.public_key_digest
  ) then
    return false;
  end if;
  insert into certificate
    (serial, role, name, fingerprint, public_key_digest, not_before, not_after, revoked_at, token_id, pem, lifetime_ms,
     root, trusts)
  values
    (given.serial, given.role, given.name, given.fingerprint, given.public_key_digest, given.not_before,
     given.not_after, given.revoked_at, given.token_id, given.pem, given.lifetime_ms, given.root, given.trusts)
  on conflict (serial) do nothing;
  return true;
end
$function$;

CREATE OR REPLACE FUNCTION refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  raise exception '% refused: table % is append-only', tg_op, tg_table_name using errcode = 'insufficient_privilege';
end
$function$;

create aggregate audit_links(first bytea, body text) (sfunc = audit_link, stype = bytea);
