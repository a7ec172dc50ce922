-- Old partitions go without making mail wait, vacuum keeps up with counters and
-- rows, and reports find an object by a name that it once had.

-- To drop one needs a moment in which nobody reads messages or writes them, and
-- all who come meanwhile wait behind the one who waits for it, mail with them.
-- So it waits a tenth of a second and fails, and whoever calls it tries again; one
-- partition a transaction, so that the lock is held no longer than one takes.
-- ALTER TABLE … DETACH PARTITION … CONCURRENTLY would make nobody wait, but runs
-- neither in a function nor in a transaction, nor as anybody but the owner.
CREATE OR REPLACE FUNCTION drop_partitions(before date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
  part text;
BEGIN
  IF before IS NULL OR before > (now() AT TIME ZONE 'UTC')::date - 2 THEN
    RAISE EXCEPTION 'drop_partitions: the last two days are needed to prove the counters, so not %', before;
  END IF;
  PERFORM pg_advisory_xact_lock(7305419260000002);
  SELECT c.relname INTO part FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
   WHERE i.inhparent = 'messages'::regclass
     AND c.relname ~ '^messages_[0-9]{8}$' AND c.relname < 'messages_' || to_char(before, 'YYYYMMDD')
   ORDER BY c.relname LIMIT 1;
  IF part IS NULL THEN
    RETURN 0;
  END IF;
  EXECUTE format('DROP TABLE %I', part);
  RETURN 1;
END $$;
COMMENT ON FUNCTION drop_partitions IS 'drops the oldest day partition of messages before a day; returns how many: 1, or 0 where there is none';

-- A row is written once. So vacuum freezes it the first time that it comes by, in
-- small portions while the partition grows: what is frozen is never read again
-- for that, whereas many old partitions that all must be frozen when transaction
-- numbers run out (200 million by default: hours of full load) would be.
CREATE OR REPLACE FUNCTION make_partitions(first date, days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  day  date;
  part text;
  made integer := 0;
BEGIN
  IF first IS NULL OR days IS NULL OR days NOT BETWEEN 1 AND 400 THEN
    RAISE EXCEPTION 'make_partitions: days must be 1 to 400, not %', days;
  END IF;
  PERFORM pg_advisory_xact_lock(7305419260000002);
  FOR day IN SELECT first + n FROM generate_series(0, days - 1) n LOOP
    part := 'messages_' || to_char(day, 'YYYYMMDD');
    IF to_regclass('public.' || part) IS NULL THEN
      EXECUTE format('CREATE TABLE %I (LIKE messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)
        WITH (autovacuum_freeze_min_age = 0, autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.05)', part);
      EXECUTE format('ALTER TABLE messages ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part,
        to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
      made := made + 1;
    END IF;
  END LOOP;
  RETURN made;
END $$;

DO $$
DECLARE
  part text;
BEGIN
  FOR part IN
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'messages'::regclass AND c.relname ~ '^messages_[0-9]{8}$'
  LOOP
    EXECUTE format('ALTER TABLE %I SET (autovacuum_freeze_min_age = 0, autovacuum_vacuum_insert_threshold = 10000,
      autovacuum_vacuum_insert_scale_factor = 0.05)', part);
  END LOOP;
END $$;

-- Nearly all updates are of one row in its own page (HOT): what was before is
-- cleared away by the next that comes to the page, and vacuum has little to do,
-- unless an open snapshot kept it all. Then vacuum must catch up, before the rows
-- of a few hot objects lie in thousands of pages.
ALTER TABLE usage SET (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_cost_limit = 1000,
  autovacuum_analyze_threshold = 1000, autovacuum_analyze_scale_factor = 1);

CREATE INDEX subscription_any_name_idx ON subscription (name);
CREATE INDEX domain_any_name_idx ON domain (name);
CREATE INDEX system_user_name_idx ON system_user (name);
