-- A daemon that remembers the counters of a batch as they are can write them in
-- one round trip, without locking them first, if it can tell that nobody else has
-- written them meanwhile. The version stands after state: what does not change
-- before what does keeps PostgreSQL's log of an update short.

ALTER TABLE usage ADD COLUMN version bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN usage.version IS 'another one after each write: a number that no other daemon, and no other batch, ever gives';
