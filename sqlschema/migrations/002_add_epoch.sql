-- What the daemons keep in memory of plans, subscriptions, domains, mailboxes,
-- system users and limits is good as long as the epoch is the same. They read it
-- with the locks of each decision, so a change holds from the next message on,
-- on all hosts, whoever makes it and how. Rows that are merely new invalidate
-- nothing that is remembered, with two exceptions: a new domain may be the one
-- of a user's script, and a new row of limits stands for another value of them.

CREATE TABLE epoch (
  n bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE  epoch IS 'one row; n grows with each change of what decides whom a message is charged to, and of limits';
COMMENT ON COLUMN epoch.n IS 'compared with the one at which something was remembered, nothing else';

CREATE UNIQUE INDEX epoch_is_one ON epoch ((true));
INSERT INTO epoch DEFAULT VALUES;

CREATE FUNCTION next_epoch() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE epoch SET n = n + 1;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION next_epoch IS 'makes the daemons forget what they remember of objects and limits';

CREATE TRIGGER plan_epoch         AFTER UPDATE OR DELETE OR TRUNCATE           ON plan         EXECUTE FUNCTION next_epoch();
CREATE TRIGGER subscription_epoch AFTER UPDATE OR DELETE OR TRUNCATE           ON subscription EXECUTE FUNCTION next_epoch();
CREATE TRIGGER domain_epoch       AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON domain       EXECUTE FUNCTION next_epoch();
CREATE TRIGGER mailbox_epoch      AFTER UPDATE OR DELETE OR TRUNCATE           ON mailbox      EXECUTE FUNCTION next_epoch();
CREATE TRIGGER system_user_epoch  AFTER UPDATE OR DELETE OR TRUNCATE           ON system_user  EXECUTE FUNCTION next_epoch();
CREATE TRIGGER limits_epoch       AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON limits       EXECUTE FUNCTION next_epoch();

ALTER TABLE host ADD COLUMN last_seen timestamptz;
COMMENT ON COLUMN host.last_seen IS 'when its daemon last said that it runs, once a minute; NULL: never; while the database is away, the hosts seen lately share what is left of a limit';

REVOKE ALL ON FUNCTION next_epoch FROM PUBLIC;
GRANT SELECT ON epoch TO mailquotad;
GRANT UPDATE (last_seen) ON host TO mailquotad;
