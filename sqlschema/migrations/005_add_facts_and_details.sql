-- All that is known of a caller is kept with the message, and a little of its
-- text beside it, for a time of its own.

ALTER TABLE messages ADD COLUMN facts jsonb;
COMMENT ON COLUMN messages.facts IS '{"unit": ["cron.service", "kernel"], …, "chain": [{"pid":…, "uid":…, "euid":…, "program":…}, …]}: what is known of the caller and has no column; the caller comes first in the chain';

-- A table of its own, since it is kept for another time than the counted rows are,
-- and nothing that counts ever reads it.
CREATE TABLE details (
  at         timestamptz NOT NULL,
  id         uuid        NOT NULL,
  message_id text,
  subject    text,
  recipients text[],
  CONSTRAINT details_pkey PRIMARY KEY (id, at),
  CONSTRAINT details_not_empty CHECK (num_nonnulls(message_id, subject, recipients) > 0)
) PARTITION BY RANGE (at);
COMMENT ON TABLE  details IS 'what is kept of the text of a message, where something is: all of it its sender''s word, and gone before its row in messages; a partition a day (UTC)';
COMMENT ON COLUMN details.at IS 'the same as in messages, as is id';
COMMENT ON COLUMN details.message_id IS 'of the header, with its angle brackets';
COMMENT ON COLUMN details.subject IS 'of the header, as it stands there';
COMMENT ON COLUMN details.recipients IS 'the first twenty addresses of the envelope';

CREATE OR REPLACE FUNCTION make_partitions(first date, days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  day   date;
  whole text;
  part  text;
  made  integer := 0;
BEGIN
  IF first IS NULL OR days IS NULL OR days NOT BETWEEN 1 AND 400 THEN
    RAISE EXCEPTION 'make_partitions: days must be 1 to 400, not %', days;
  END IF;
  PERFORM pg_advisory_xact_lock(7305419260000002);
  FOR day IN SELECT first + n FROM generate_series(0, days - 1) n LOOP
    FOREACH whole IN ARRAY ARRAY['messages', 'details'] LOOP
      part := whole || '_' || to_char(day, 'YYYYMMDD');
      IF to_regclass('public.' || part) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)
          WITH (autovacuum_freeze_min_age = 0, autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.05)', part, whole);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', whole, part,
          to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
        made := made + 1;
      END IF;
    END LOOP;
  END LOOP;
  RETURN made;
END $$;
COMMENT ON FUNCTION make_partitions IS 'makes the missing day partitions of messages and details; returns how many';

-- As drop_partitions; that one needs days for the counters, this one none but today.
CREATE FUNCTION drop_details(before date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
  part text;
BEGIN
  IF before IS NULL OR before > (now() AT TIME ZONE 'UTC')::date THEN
    RAISE EXCEPTION 'drop_details: those of today are being written, so not %', before;
  END IF;
  PERFORM pg_advisory_xact_lock(7305419260000002);
  SELECT c.relname INTO part FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
   WHERE i.inhparent = 'details'::regclass
     AND c.relname ~ '^details_[0-9]{8}$' AND c.relname < 'details_' || to_char(before, 'YYYYMMDD')
   ORDER BY c.relname LIMIT 1;
  IF part IS NULL THEN
    RETURN 0;
  END IF;
  EXECUTE format('DROP TABLE %I', part);
  RETURN 1;
END $$;
COMMENT ON FUNCTION drop_details IS 'drops the oldest day partition of details before a day; returns how many: 1, or 0 where there is none';

REVOKE ALL ON FUNCTION drop_details FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_details TO mailquotad;
GRANT SELECT, INSERT ON details TO mailquotad;
