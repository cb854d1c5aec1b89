-- The attempt that a copied task had before its copy. A task's row is always its latest attempt, so making a copy moves the
-- row on to the copy and leaves the original here. It is valid exactly while the task is live in the generation the copy
-- got (copy_generation): whatever else moves the task ends it too, without having to know about this table.
-- With `alone` the copy has ended and the original goes on by itself; the row then names the original's node.
create table task_original (
  job bigint not null,
  index integer not null,
  generation integer not null,
  node integer not null,
  copy_generation integer not null,
  attempt integer not null,
  alone boolean not null default false,
  running_at timestamptz not null,
  started_at timestamptz not null,
  primary key (job, index),
  constraint task_original_ranges check (
    index >= 0 and generation >= 1 and copy_generation > generation and attempt >= 1
  )
);
