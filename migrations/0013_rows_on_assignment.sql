-- A task's row is made by its first assignment, no longer ahead of it. Rows that were never assigned go; the inputs of
-- their tasks go back to where they wait for it.
insert into job_input (job_id, from_index, to_index, inputs)
select j.id, min(t.index), max(t.index) + 1, array_agg(t.input order by t.index)
from job j join task t on t.job = j.seq and t.index >= j.cursor
where j.completed_at is null and j.has_inputs
  and t.index < coalesce((select min(i.from_index) from job_input i where i.job_id = j.id), j.total)
group by j.id, t.index / 1000;

-- Of a chunk that was taken in part, the part before the cursor has rows; the statement that makes rows passes it by.
with unmade as (
  delete from task t using job j
  where t.job = j.seq and t.index >= j.cursor and j.completed_at is null
  returning t.job
),
counted as (select job, count(*)::integer as rows from unmade group by job)
update job j set materialised = j.materialised - c.rows, queued = j.queued - c.rows
from counted c where c.job = j.seq;
