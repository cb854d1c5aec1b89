-- Inputs stay in their chunks for as long as their job is kept: tasks that are assigned in a range have them nowhere else. A
-- coordinator of an earlier version that leads once more deletes each chunk when its tasks are assigned; of a job that has not
-- ended it finds them still there, which does it no harm.
create function keep_inputs() returns trigger language plpgsql as $$
begin
  if exists (select from job where id = old.job_id and completed_at is null) then
    return null;
  end if;
  return old;
end
$$;

create trigger job_input_kept before delete on job_input for each row execute function keep_inputs();
