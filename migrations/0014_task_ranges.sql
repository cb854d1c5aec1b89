-- Fresh tasks that are given to one node together are one range. A task of it that is not in `out` is ASSIGNED there, in its first
-- generation, and has no row. `out` is the fence: who takes a task out of its range gives it a row or a place in a block.
create table task_range (
  job bigint not null,
  first integer not null,
  after integer not null,
  node integer not null,
  assigned_at timestamptz not null default now(),
  out int4multirange not null default '{}',
  primary key (job, first),
  constraint task_range_bounds check (first >= 0 and after > first and out <@ int4multirange(int4range(first, after)))
) with (fillfactor = 50, autovacuum_vacuum_cost_delay = 0);

-- Successive tasks that were COMPLETED together, by their first attempts, and of which there is nothing to say but how long
-- they ran and what they returned: arrays in the order of their indexes, or one result for all.
create table task_block (
  job bigint not null,
  first integer not null,
  after integer not null,
  node integer not null,
  assigned_at timestamptz not null,
  settled_at timestamptz not null default now(),
  age_ms integer[] not null,
  run_us bigint[],
  results text[],
  result text,
  primary key (job, first),
  constraint task_block_bounds check (first >= 0 and after > first),
  constraint task_block_sizes check (
    cardinality(age_ms) = after - first and (run_us is null or cardinality(run_us) = after - first)
    and (results is null or cardinality(results) = after - first)
  )
) with (autovacuum_vacuum_cost_delay = 0);
