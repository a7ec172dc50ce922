-- The whole schema, readable from top to bottom. A fresh database is made from
-- the numbered files in migrations/; a test proves that both come to the same.
--
-- Objects. Each limit belongs to an object, each object has one bigint id:
-- class << 40 | number, so that an id alone tells its class and sorting ids
-- locks usage rows in one order everywhere, the one row of the server last.
-- Classes: 1 system user, 2 mailbox, 3 domain, 4 subscription, 5 plan, 6 server.
-- An object is never deleted while message rows name it: removed_at hides it.

CREATE TABLE schema_version (
  version integer     NOT NULL,
  at      timestamptz NOT NULL DEFAULT now(),
  name    text        NOT NULL,
  CONSTRAINT schema_version_pkey PRIMARY KEY (version)
);
COMMENT ON TABLE  schema_version IS 'migrations that have run, one row each; the highest is the version of the schema';
COMMENT ON COLUMN schema_version.name IS 'of the file, such as create_schema';

CREATE SEQUENCE object_number;

CREATE TABLE host (
  id         integer     GENERATED ALWAYS AS IDENTITY,
  name       text        NOT NULL,
  first_seen timestamptz NOT NULL DEFAULT now(),
  last_seen  timestamptz,
  CONSTRAINT host_pkey PRIMARY KEY (id),
  CONSTRAINT host_name_key UNIQUE (name)
);
COMMENT ON TABLE  host IS 'mail hosts that share this database';
COMMENT ON COLUMN host.name IS 'as in the daemon''s configuration, by default its host name';
COMMENT ON COLUMN host.first_seen IS 'when its daemon first connected';
COMMENT ON COLUMN host.last_seen IS 'when its daemon last said that it runs, once a minute; NULL: never; while the database is away, the hosts seen lately share what is left of a limit';

CREATE TABLE server (
  id bigint NOT NULL DEFAULT (6::bigint << 40),
  CONSTRAINT server_pkey PRIMARY KEY (id),
  CONSTRAINT server_is_one CHECK (id = (6::bigint << 40))
);
COMMENT ON TABLE server IS 'the one object above all: everything that leaves any host';

CREATE TABLE plan (
  id         bigint      NOT NULL DEFAULT (5::bigint << 40 | nextval('object_number')),
  removed_at timestamptz,
  exempt     boolean     NOT NULL DEFAULT false,
  name       text        NOT NULL,
  CONSTRAINT plan_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX plan_name_key ON plan (name) WHERE removed_at IS NULL;
COMMENT ON TABLE  plan IS 'service plans: default limits for the subscriptions under them and for what belongs to these';
COMMENT ON COLUMN plan.exempt IS 'mail of its subscriptions is counted, never refused';

CREATE TABLE subscription (
  id         bigint      NOT NULL DEFAULT (4::bigint << 40 | nextval('object_number')),
  plan_id    bigint      NOT NULL,
  removed_at timestamptz,
  name       text        NOT NULL,
  CONSTRAINT subscription_pkey PRIMARY KEY (id),
  CONSTRAINT subscription_plan_fkey FOREIGN KEY (plan_id) REFERENCES plan (id)
);
CREATE UNIQUE INDEX subscription_name_key ON subscription (name) WHERE removed_at IS NULL;
CREATE INDEX subscription_any_name_idx ON subscription (name); -- reports ask for removed ones, too
CREATE INDEX subscription_plan_idx ON subscription (plan_id);
COMMENT ON TABLE subscription IS 'what a customer has: system users, domains, mailboxes';

CREATE TABLE domain (
  id              bigint      NOT NULL DEFAULT (3::bigint << 40 | nextval('object_number')),
  subscription_id bigint      NOT NULL,
  removed_at      timestamptz,
  name            text        NOT NULL,
  document_root   text,
  CONSTRAINT domain_pkey PRIMARY KEY (id),
  CONSTRAINT domain_subscription_fkey FOREIGN KEY (subscription_id) REFERENCES subscription (id),
  CONSTRAINT domain_name_is_lower CHECK (name = lower(name)),
  CONSTRAINT domain_document_root_is_absolute CHECK (document_root LIKE '/%')
);
CREATE UNIQUE INDEX domain_name_key ON domain (name) WHERE removed_at IS NULL;
CREATE INDEX domain_any_name_idx ON domain (name);
CREATE INDEX domain_subscription_idx ON domain (subscription_id);
COMMENT ON TABLE  domain IS 'domains of a subscription';
COMMENT ON COLUMN domain.document_root IS 'a script below it is mail of this domain, if its path is proved';

CREATE TABLE mailbox (
  id         bigint      NOT NULL DEFAULT (2::bigint << 40 | nextval('object_number')),
  domain_id  bigint      NOT NULL,
  removed_at timestamptz,
  address    text        NOT NULL,
  CONSTRAINT mailbox_pkey PRIMARY KEY (id),
  CONSTRAINT mailbox_domain_fkey FOREIGN KEY (domain_id) REFERENCES domain (id),
  CONSTRAINT mailbox_address_is_lower CHECK (address = lower(address))
);
CREATE UNIQUE INDEX mailbox_address_key ON mailbox (address) WHERE removed_at IS NULL;
CREATE INDEX mailbox_domain_idx ON mailbox (domain_id);
COMMENT ON TABLE mailbox IS 'mailboxes: the names of SMTP AUTH';

CREATE TABLE system_user (
  id              bigint      NOT NULL DEFAULT (1::bigint << 40 | nextval('object_number')),
  subscription_id bigint      NOT NULL,
  uid             bigint      NOT NULL,
  host_id         integer     NOT NULL,
  removed_at      timestamptz,
  name            text        NOT NULL,
  CONSTRAINT system_user_pkey PRIMARY KEY (id),
  CONSTRAINT system_user_subscription_fkey FOREIGN KEY (subscription_id) REFERENCES subscription (id),
  CONSTRAINT system_user_host_fkey FOREIGN KEY (host_id) REFERENCES host (id),
  CONSTRAINT system_user_uid_range CHECK (uid BETWEEN 0 AND 4294967295)
);
CREATE UNIQUE INDEX system_user_uid_key ON system_user (host_id, uid) WHERE removed_at IS NULL;
CREATE INDEX system_user_name_idx ON system_user (name);
CREATE INDEX system_user_subscription_idx ON system_user (subscription_id);
COMMENT ON TABLE  system_user IS 'Unix users that called sendmail, by host and uid';
COMMENT ON COLUMN system_user.name IS 'login name when last seen; the uid is the key';

CREATE TABLE limits (
  owner_id           bigint   NOT NULL,
  messages_hour      integer,
  messages_day       integer,
  recipients_hour    integer,
  recipients_day     integer,
  recipients_message integer,
  class              smallint NOT NULL,
  CONSTRAINT limits_pkey PRIMARY KEY (owner_id, class),
  CONSTRAINT limits_class CHECK (class = owner_id >> 40
    OR owner_id >> 40 = 5 AND class BETWEEN 1 AND 4
    OR owner_id >> 40 = 6 AND class BETWEEN 1 AND 4),
  CONSTRAINT limits_not_of_a_plan CHECK (class <> 5),
  CONSTRAINT limits_range CHECK (least(messages_hour, messages_day, recipients_hour, recipients_day, recipients_message) >= -1)
);
COMMENT ON TABLE  limits IS 'limits as set; NULL = not set here, inherited; -1 = unlimited; 0 = no mail';
COMMENT ON COLUMN limits.owner_id IS 'object that the limits were set on';
COMMENT ON COLUMN limits.class IS 'class of the objects that they govern: the owner''s own, or, on a plan and the server, the one they are the default of';

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

-- Nearly all updates are of one row in its own page (HOT): what was before is
-- cleared away by the next that comes to the page, and vacuum has little to do,
-- unless an open snapshot kept it all. Then vacuum must catch up, before the rows
-- of a few hot objects lie in thousands of pages.
CREATE TABLE usage (
  id      bigint NOT NULL,
  state   bytea  NOT NULL DEFAULT '',
  version bigint NOT NULL DEFAULT 0,
  CONSTRAINT usage_pkey PRIMARY KEY (id)
) WITH (fillfactor = 80, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_cost_limit = 1000,
        autovacuum_analyze_threshold = 1000, autovacuum_analyze_scale_factor = 1);
COMMENT ON TABLE  usage IS 'what an object has used in the last hour and day, one row an object';
COMMENT ON COLUMN usage.state IS 'non-empty slots, oldest first; package quota, type Usage, says how';
COMMENT ON COLUMN usage.version IS 'another one after each write: a number that no other daemon, and no other batch, ever gives';

CREATE TABLE messages (
  at              timestamptz NOT NULL,
  id              uuid        NOT NULL,
  uid             bigint,
  size            bigint      NOT NULL,
  user_id         bigint,
  mailbox_id      bigint,
  domain_id       bigint,
  subscription_id bigint,
  refused_object  bigint,
  host_id         integer     NOT NULL,
  recipients      integer     NOT NULL,
  decision        smallint    NOT NULL,
  refused_limit   smallint,
  kind_proof      smallint,
  script_proof    smallint,
  crontab_proof   smallint,
  site_proof      smallint,
  sender          text        NOT NULL,
  kind            text        NOT NULL,
  script          text,
  crontab         text,
  site            text,
  refused_why     text,
  facts           jsonb,
  CONSTRAINT messages_pkey PRIMARY KEY (id, at),
  CONSTRAINT messages_decision CHECK (decision IN (1, 2)),
  CONSTRAINT messages_refused CHECK ((decision = 2) = (refused_why IS NOT NULL))
) PARTITION BY RANGE (at);
COMMENT ON TABLE  messages IS 'one row a message asked for, accepted or refused; a partition a day (UTC)';
COMMENT ON COLUMN messages.at IS 'when it was decided, by the database''s clock; never before the newest slot it was counted in';
COMMENT ON COLUMN messages.id IS 'version 7, made by the daemon that was asked';
COMMENT ON COLUMN messages.uid IS 'of the caller, from the kernel';
COMMENT ON COLUMN messages.size IS 'bytes on the caller''s standard input';
COMMENT ON COLUMN messages.recipients IS 'envelope recipients, as many as the MTA would take';
COMMENT ON COLUMN messages.decision IS '1 accepted (charged), 2 refused (not charged)';
COMMENT ON COLUMN messages.refused_object IS 'object whose limit refused it';
COMMENT ON COLUMN messages.refused_limit IS '0 messages/hour, 1 messages/day, 2 recipients/hour, 3 recipients/day, 4 recipients/message';
COMMENT ON COLUMN messages.refused_why IS 'the line that the caller was given';
COMMENT ON COLUMN messages.kind_proof IS '1 claimed, 2 system, 3 kernel; the other _proof columns alike';
COMMENT ON COLUMN messages.crontab IS 'file:line and command of the cron job';
COMMENT ON COLUMN messages.site IS 'FPM pool or virtual host';
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

CREATE TABLE audit (
  id     bigint      GENERATED ALWAYS AS IDENTITY,
  at     timestamptz NOT NULL DEFAULT now(),
  host   text        NOT NULL,
  actor  text        NOT NULL,
  action text        NOT NULL,
  object text        NOT NULL,
  before text,
  after  text,
  why    text,
  CONSTRAINT audit_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE  audit IS 'every change that an administrator made';
COMMENT ON COLUMN audit.actor IS 'login name behind the call: of sudo''s caller where there is one';
COMMENT ON COLUMN audit.action IS 'the mailctl command, such as limit set';
COMMENT ON COLUMN audit.object IS 'as written on the command line, such as subscription:alice';

-- Partitions. The daemon may write rows, but not change the schema, so what it
-- needs for its partitions are functions that run as the owner. They find
-- names in public only, where nobody else may make any: pg_temp, which would
-- come first if it were not named, comes last.
--
-- A new partition is attached, since CREATE TABLE … PARTITION OF would wait for
-- all that read messages, and all that write them for it.
--
-- A row is written once. So vacuum freezes it the first time that it comes by, in
-- small portions while the partition grows: what is frozen is never read again
-- for that, whereas many old partitions that all must be frozen when transaction
-- numbers run out (200 million by default: hours of full load) would be.
CREATE FUNCTION make_partitions(first date, days integer) RETURNS integer
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

-- To drop one needs a moment in which nobody reads messages or writes them, and
-- all who come meanwhile wait behind the one who waits for it, mail with them.
-- So it waits a tenth of a second and fails, and whoever calls it tries again; one
-- partition a transaction, so that the lock is held no longer than one takes.
-- ALTER TABLE … DETACH PARTITION … CONCURRENTLY would make nobody wait, but runs
-- neither in a function nor in a transaction, nor as anybody but the owner.
CREATE FUNCTION drop_partitions(before date) RETURNS integer
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

-- The same of details. No counter needs them, so all but today's may go.
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

-- Rights: the daemon and mailctl read and write rows as mailquotad; only the
-- owner changes the schema. A message row is written once.

REVOKE ALL ON FUNCTION make_partitions, drop_partitions, drop_details, next_epoch FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_partitions, drop_partitions, drop_details TO mailquotad;
GRANT USAGE ON SEQUENCE object_number TO mailquotad;
GRANT SELECT, INSERT, UPDATE, DELETE ON plan, subscription, domain, mailbox, system_user, limits, usage TO mailquotad;
GRANT SELECT, INSERT ON host, messages, details, audit TO mailquotad;
GRANT SELECT ON server, schema_version, epoch TO mailquotad;
GRANT UPDATE (last_seen) ON host TO mailquotad;

INSERT INTO server DEFAULT VALUES;
INSERT INTO epoch DEFAULT VALUES;
INSERT INTO plan (name, exempt) VALUES ('default', false), ('system', true);
