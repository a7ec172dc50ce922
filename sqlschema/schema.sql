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
  id   bigint NOT NULL DEFAULT (6::bigint << 40),
  mode text,
  CONSTRAINT server_pkey PRIMARY KEY (id),
  CONSTRAINT server_is_one CHECK (id = (6::bigint << 40)),
  CONSTRAINT server_mode CHECK (mode IN ('off', 'observe', 'enforce'))
);
COMMENT ON TABLE  server IS 'the one object above all: everything that leaves any host';
COMMENT ON COLUMN server.mode IS 'what its limits and those of all below do: enforce refuses, observe lets all through and records what it would have refused, off only counts; NULL: enforce. The nearest one set on the way from user or mailbox, domain, subscription and plan to the server holds for a message';

CREATE TABLE plan (
  id         bigint      NOT NULL DEFAULT (5::bigint << 40 | nextval('object_number')),
  removed_at timestamptz,
  name       text        NOT NULL,
  mode       text,
  CONSTRAINT plan_pkey PRIMARY KEY (id),
  CONSTRAINT plan_mode CHECK (mode IN ('off', 'observe', 'enforce'))
);
CREATE UNIQUE INDEX plan_name_key ON plan (name) WHERE removed_at IS NULL;
COMMENT ON TABLE  plan IS 'service plans: default limits for the subscriptions under them and for what belongs to these';
COMMENT ON COLUMN plan.mode IS 'as server.mode; NULL: inherited; the other tables alike';

CREATE TABLE subscription (
  id         bigint      NOT NULL DEFAULT (4::bigint << 40 | nextval('object_number')),
  plan_id    bigint      NOT NULL,
  removed_at timestamptz,
  name       text        NOT NULL,
  mode       text,
  contact    text,
  CONSTRAINT subscription_pkey PRIMARY KEY (id),
  CONSTRAINT subscription_plan_fkey FOREIGN KEY (plan_id) REFERENCES plan (id),
  CONSTRAINT subscription_mode CHECK (mode IN ('off', 'observe', 'enforce'))
);
CREATE UNIQUE INDEX subscription_name_key ON subscription (name) WHERE removed_at IS NULL;
CREATE INDEX subscription_any_name_idx ON subscription (name); -- reports ask for removed ones, too
CREATE INDEX subscription_plan_idx ON subscription (plan_id);
COMMENT ON TABLE  subscription IS 'what a customer has: system users, domains, mailboxes';
COMMENT ON COLUMN subscription.contact IS 'address to which its customer gets notifications; NULL: none';

CREATE TABLE domain (
  id              bigint      NOT NULL DEFAULT (3::bigint << 40 | nextval('object_number')),
  subscription_id bigint      NOT NULL,
  removed_at      timestamptz,
  name            text        NOT NULL,
  document_root   text,
  mode            text,
  CONSTRAINT domain_pkey PRIMARY KEY (id),
  CONSTRAINT domain_subscription_fkey FOREIGN KEY (subscription_id) REFERENCES subscription (id),
  CONSTRAINT domain_name_is_lower CHECK (name = lower(name)),
  CONSTRAINT domain_document_root_is_absolute CHECK (document_root LIKE '/%'),
  CONSTRAINT domain_mode CHECK (mode IN ('off', 'observe', 'enforce'))
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
  mode       text,
  CONSTRAINT mailbox_pkey PRIMARY KEY (id),
  CONSTRAINT mailbox_domain_fkey FOREIGN KEY (domain_id) REFERENCES domain (id),
  CONSTRAINT mailbox_address_is_lower CHECK (address = lower(address)),
  CONSTRAINT mailbox_mode CHECK (mode IN ('off', 'observe', 'enforce'))
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
  mode            text,
  CONSTRAINT system_user_pkey PRIMARY KEY (id),
  CONSTRAINT system_user_subscription_fkey FOREIGN KEY (subscription_id) REFERENCES subscription (id),
  CONSTRAINT system_user_host_fkey FOREIGN KEY (host_id) REFERENCES host (id),
  CONSTRAINT system_user_uid_range CHECK (uid BETWEEN 0 AND 4294967295),
  CONSTRAINT system_user_mode CHECK (mode IN ('off', 'observe', 'enforce'))
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

CREATE TABLE exception (
  id        bigint      GENERATED ALWAYS AS IDENTITY,
  object_id bigint,
  value     bigint,
  made_at   timestamptz NOT NULL DEFAULT now(),
  until     timestamptz,
  limit_no  smallint,
  kind      text        NOT NULL,
  network   cidr,
  script    text,
  crontab   text,
  actor     text        NOT NULL,
  why       text,
  CONSTRAINT exception_pkey PRIMARY KEY (id),
  CONSTRAINT exception_kind CHECK (kind IN ('raise', 'block', 'whitelist')),
  CONSTRAINT exception_has_one_subject CHECK (num_nonnulls(object_id, network, script, crontab) = 1),
  CONSTRAINT exception_raise CHECK ((kind = 'raise') = (limit_no IS NOT NULL AND value IS NOT NULL)),
  CONSTRAINT exception_raise_is_of_an_object CHECK (kind <> 'raise' OR object_id IS NOT NULL),
  CONSTRAINT exception_limit_no CHECK (limit_no BETWEEN 0 AND 4),
  CONSTRAINT exception_value CHECK (value >= -1)
);
CREATE INDEX exception_object_idx ON exception (object_id) WHERE object_id IS NOT NULL;
COMMENT ON TABLE  exception IS 'exceptions from limits; one that has ended stays for some time to be looked at';
COMMENT ON COLUMN exception.object_id IS 'whose mail it is of; the next three are the other ways to say it';
COMMENT ON COLUMN exception.value IS 'of a raise: what the limit is meanwhile; -1 is unlimited';
COMMENT ON COLUMN exception.made_at IS 'holds from then on';
COMMENT ON COLUMN exception.until IS 'holds before that; NULL: until it is removed';
COMMENT ON COLUMN exception.limit_no IS 'of a raise: which limit, as messages.refused_limit';
COMMENT ON COLUMN exception.kind IS 'raise: another value of a limit; block: all is refused; whitelist: counted, never refused';
COMMENT ON COLUMN exception.network IS 'of clients: addresses';
COMMENT ON COLUMN exception.script IS 'path, or of all below a directory, which ends in /; to be in a white list it must be proved';
COMMENT ON COLUMN exception.crontab IS 'text in the line, as messages.crontab has it; to be in a white list it must be proved';
COMMENT ON COLUMN exception.actor IS 'as audit.actor';

CREATE TABLE sender (
  id        bigint      GENERATED ALWAYS AS IDENTITY,
  object_id bigint      NOT NULL,
  made_at   timestamptz NOT NULL DEFAULT now(),
  address   text        NOT NULL,
  CONSTRAINT sender_pkey PRIMARY KEY (id),
  CONSTRAINT sender_object_address_key UNIQUE (object_id, address),
  CONSTRAINT sender_object_class CHECK (object_id >> 40 IN (1, 2, 3, 4)),
  CONSTRAINT sender_address_is_lower CHECK (address = lower(address)),
  CONSTRAINT sender_address_has_at CHECK (address LIKE '%@%')
);
COMMENT ON TABLE  sender IS 'envelope senders that an object may use besides its own; sender-check goes by them';
COMMENT ON COLUMN sender.object_id IS 'mailbox, or system user, domain or subscription and all that belongs to it';
COMMENT ON COLUMN sender.made_at IS 'allowed since then';
COMMENT ON COLUMN sender.address IS 'an address, or @ and a domain for all addresses in it';

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
CREATE TRIGGER exception_epoch    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON exception    EXECUTE FUNCTION next_epoch();
CREATE TRIGGER sender_epoch       AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sender       EXECUTE FUNCTION next_epoch();
CREATE TRIGGER server_epoch       AFTER UPDATE OR DELETE OR TRUNCATE           ON server       EXECUTE FUNCTION next_epoch();

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
COMMENT ON COLUMN usage.state IS 'non-empty slots, oldest first, and what of them does not count; package quota, type Usage, says how';
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
  CONSTRAINT messages_decision CHECK (decision IN (1, 2, 3)),
  CONSTRAINT messages_refused CHECK ((decision <> 1) = (refused_why IS NOT NULL))
) PARTITION BY RANGE (at);
-- Rows come nearly in order of time, so a tiny index finds those of an hour.
CREATE INDEX messages_at_idx ON messages USING brin (at) WITH (pages_per_range = 16, autosummarize = on);
COMMENT ON TABLE  messages IS 'one row a message asked for, accepted or refused; a partition a day (UTC)';
COMMENT ON COLUMN messages.at IS 'when it was decided, by the database''s clock; never before the newest slot it was counted in';
COMMENT ON COLUMN messages.id IS 'version 7, made by the daemon that was asked; the same at each try of a message that is sent on, of which only one is accepted';
COMMENT ON COLUMN messages.uid IS 'of the caller, from the kernel; NULL where no program of this host sent it';
COMMENT ON COLUMN messages.size IS 'bytes on the caller''s standard input';
COMMENT ON COLUMN messages.recipients IS 'envelope recipients, as many as the MTA would take';
COMMENT ON COLUMN messages.decision IS '1 accepted (charged), 2 refused (not charged), 3 accepted (charged) by mode observe, or by sender-check = report, where it would have been refused';
COMMENT ON COLUMN messages.refused_object IS 'object whose limit refused it, or that is blocked';
COMMENT ON COLUMN messages.refused_limit IS '0 messages/hour, 1 messages/day, 2 recipients/hour, 3 recipients/day, 4 recipients/message; NULL where no limit refused it';
COMMENT ON COLUMN messages.refused_why IS 'the line that the caller was given, or would have been';
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

CREATE TABLE returned (
  at          timestamptz NOT NULL,
  id          uuid        NOT NULL,
  returned_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT returned_pkey PRIMARY KEY (id, at)
);
CREATE INDEX returned_at_idx ON returned (at);
COMMENT ON TABLE  returned IS 'accepted messages that the mail server itself refused afterwards: their charge was given back, as far as it still counted';
COMMENT ON COLUMN returned.at IS 'the same as in messages, as is id';
COMMENT ON COLUMN returned.returned_at IS 'when the charge was given back';

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
CREATE INDEX audit_object_idx ON audit (left(object, 200), at, id); -- a path is too long for an index
CREATE INDEX audit_actor_idx ON audit (actor, at, id);
CREATE INDEX audit_at_idx ON audit (at, id);
COMMENT ON TABLE  audit IS 'every change that an administrator made';
COMMENT ON COLUMN audit.actor IS 'login name behind the call: of sudo''s caller where there is one';
COMMENT ON COLUMN audit.action IS 'the mailctl command, such as limit set';
COMMENT ON COLUMN audit.object IS 'as written on the command line, such as subscription:alice';

-- Events: what somebody is to be told. At most one of a kind is open for an
-- object, so of many hosts that see the same, one makes it.
CREATE TABLE event (
  id         bigint      GENERATED ALWAYS AS IDENTITY,
  object_id  bigint      NOT NULL,
  opened_at  timestamptz NOT NULL DEFAULT now(),
  last_at    timestamptz NOT NULL DEFAULT now(),
  told_at    timestamptz,
  closed_at  timestamptz,
  max        bigint      NOT NULL,
  used       bigint      NOT NULL,
  message_id uuid        NOT NULL,
  limit_no   smallint    NOT NULL,
  kind       text        NOT NULL,
  CONSTRAINT event_pkey PRIMARY KEY (id),
  CONSTRAINT event_kind CHECK (kind IN ('refused', 'observed', 'warned')),
  CONSTRAINT event_limit_no CHECK (limit_no BETWEEN 0 AND 4)
);
CREATE UNIQUE INDEX event_open_key ON event (object_id, kind) WHERE closed_at IS NULL;
CREATE INDEX event_untold_idx ON event (id) WHERE told_at IS NULL;
CREATE INDEX event_closed_idx ON event (closed_at);
CREATE INDEX event_warned_idx ON event (opened_at) WHERE kind = 'warned';
COMMENT ON TABLE  event IS 'times in which mail of an object was refused (would have been: observed), or near one of its limits (warned)';
COMMENT ON COLUMN event.opened_at IS 'first such message';
COMMENT ON COLUMN event.last_at IS 'last such message, to half a minute';
COMMENT ON COLUMN event.told_at IS 'when its notices were made, or it was found that nobody is to be told; NULL: not yet';
COMMENT ON COLUMN event.closed_at IS 'when there had been none for a while; the next one makes a new event';
COMMENT ON COLUMN event.max IS 'the limit''s value at the first message';
COMMENT ON COLUMN event.used IS 'used of it then';
COMMENT ON COLUMN event.message_id IS 'the first message''s row';
COMMENT ON COLUMN event.limit_no IS 'as messages.refused_limit';

CREATE TABLE notice (
  id       bigint      GENERATED ALWAYS AS IDENTITY,
  event_id bigint,
  since    timestamptz,
  period   timestamptz,
  made_at  timestamptz NOT NULL DEFAULT now(),
  due_at   timestamptz NOT NULL DEFAULT now(),
  sent_at  timestamptz,
  tries    integer     NOT NULL DEFAULT 0,
  channel  text        NOT NULL,
  target   text        NOT NULL,
  error    text,
  CONSTRAINT notice_pkey PRIMARY KEY (id),
  CONSTRAINT notice_event_fkey FOREIGN KEY (event_id) REFERENCES event (id) ON DELETE CASCADE,
  CONSTRAINT notice_is_of_one CHECK (num_nonnulls(event_id, period) = 1),
  CONSTRAINT notice_digest_has_a_span CHECK (num_nonnulls(since, period) IN (0, 2)),
  CONSTRAINT notice_channel CHECK (channel IN ('admin', 'customer', 'webhook', 'hook'))
);
CREATE UNIQUE INDEX notice_event_key ON notice (event_id, channel, target) WHERE event_id IS NOT NULL;
CREATE UNIQUE INDEX notice_period_key ON notice (period, channel, target) WHERE period IS NOT NULL;
CREATE INDEX notice_due_idx ON notice (due_at) WHERE sent_at IS NULL;
CREATE INDEX notice_sent_idx ON notice (sent_at);
CREATE INDEX notice_made_idx ON notice (made_at) WHERE event_id IS NOT NULL;
COMMENT ON TABLE  notice IS 'what is to be told to whom, once; kept for some time after it was';
COMMENT ON COLUMN notice.event_id IS 'the event that it tells of; NULL for a digest';
COMMENT ON COLUMN notice.since IS 'of a digest: the beginning of its time; NULL for an event';
COMMENT ON COLUMN notice.period IS 'of a digest: the end of its time; NULL for an event';
COMMENT ON COLUMN notice.made_at IS 'when it was found that it is to be told';
COMMENT ON COLUMN notice.due_at IS 'when to try next; infinity: given up';
COMMENT ON COLUMN notice.sent_at IS 'when it was taken by mail server, web server or program; NULL: not yet';
COMMENT ON COLUMN notice.tries IS 'that failed';
COMMENT ON COLUMN notice.channel IS 'admin and customer: by mail; webhook; hook: a program';
COMMENT ON COLUMN notice.target IS 'address, URL or path';
COMMENT ON COLUMN notice.error IS 'of the last try';

-- Sums. What stands in hourly and daily of a period that is over is the sum of
-- its message rows, as long as summed has a row for it that is not dirty; reports
-- add up the rest from messages. NULLs of messages are 0 and '' here, so that
-- they can be grouped by.
CREATE TABLE hourly (
  at              timestamptz NOT NULL,
  first           timestamptz NOT NULL,
  last            timestamptz NOT NULL,
  user_id         bigint      NOT NULL,
  mailbox_id      bigint      NOT NULL,
  domain_id       bigint      NOT NULL,
  subscription_id bigint      NOT NULL,
  refused_object  bigint      NOT NULL,
  messages        bigint      NOT NULL,
  recipients      bigint      NOT NULL,
  bytes           bigint      NOT NULL,
  host_id         integer     NOT NULL,
  decision        smallint    NOT NULL,
  refused_limit   smallint    NOT NULL,
  script_weakest  smallint    NOT NULL,
  script_strongest smallint   NOT NULL,
  crontab_weakest smallint    NOT NULL,
  crontab_strongest smallint  NOT NULL,
  site_weakest    smallint    NOT NULL,
  site_strongest  smallint    NOT NULL,
  kind            text        NOT NULL,
  script          text        NOT NULL,
  crontab         text        NOT NULL,
  site            text        NOT NULL,
  reason          text        NOT NULL
);
-- Not BRIN: what is summed again lands in pages of any time.
CREATE INDEX hourly_at_idx ON hourly (at);
CREATE INDEX hourly_subscription_idx ON hourly (subscription_id, at);
COMMENT ON TABLE  hourly IS 'sums over messages, a row for each hour and all that is alike in it; kept longer than these';
COMMENT ON COLUMN hourly.at IS 'beginning of the hour';
COMMENT ON COLUMN hourly.first IS 'time of its first message';
COMMENT ON COLUMN hourly.last IS 'time of its last message';
COMMENT ON COLUMN hourly.refused_object IS 'as messages.refused_object';
COMMENT ON COLUMN hourly.messages IS 'how many';
COMMENT ON COLUMN hourly.recipients IS 'of all of them';
COMMENT ON COLUMN hourly.bytes IS 'of all of them';
COMMENT ON COLUMN hourly.decision IS 'as messages.decision';
COMMENT ON COLUMN hourly.refused_limit IS 'as messages.refused_limit; -1: none';
COMMENT ON COLUMN hourly.script_weakest IS 'least of messages.script_proof; 0: none';
COMMENT ON COLUMN hourly.script_strongest IS 'greatest of messages.script_proof; 0: none';
COMMENT ON COLUMN hourly.crontab_weakest IS 'least of messages.crontab_proof; 0: none';
COMMENT ON COLUMN hourly.crontab_strongest IS 'greatest of messages.crontab_proof; 0: none';
COMMENT ON COLUMN hourly.site_weakest IS 'least of messages.site_proof; 0: none';
COMMENT ON COLUMN hourly.site_strongest IS 'greatest of messages.site_proof; 0: none';
COMMENT ON COLUMN hourly.crontab IS 'as messages.crontab, and site alike';
COMMENT ON COLUMN hourly.reason IS 'messages.refused_why where no limit refused it, else empty';
COMMENT ON COLUMN hourly.site IS 'as messages.site';

CREATE TABLE daily (LIKE hourly INCLUDING COMMENTS);
CREATE INDEX daily_at_idx ON daily (at);
COMMENT ON TABLE  daily IS 'as hourly, by day (UTC)';
COMMENT ON COLUMN daily.at IS 'beginning of the day';

CREATE INDEX hourly_tried_idx ON hourly (at) WHERE decision <> 1;
CREATE INDEX daily_tried_idx ON daily (at) WHERE decision <> 1;

-- Sums of these sums: what is asked of one object or of all of a class, without
-- a script or the like, is found in few rows. They are made with them, in one
-- transaction, and hold as long.
CREATE TABLE hourly_object (
  at         timestamptz NOT NULL,
  first      timestamptz NOT NULL,
  last       timestamptz NOT NULL,
  object_id  bigint      NOT NULL,
  messages   bigint      NOT NULL,
  recipients bigint      NOT NULL,
  class      smallint    NOT NULL,
  decision   smallint    NOT NULL
);
CREATE INDEX hourly_object_idx ON hourly_object (class, object_id, at);
CREATE INDEX hourly_object_at_idx ON hourly_object (at, class);
COMMENT ON TABLE  hourly_object IS 'sums over hourly, a row for each object, and decision';
COMMENT ON COLUMN hourly_object.at IS 'beginning of the hour';
COMMENT ON COLUMN hourly_object.first IS 'time of its first message';
COMMENT ON COLUMN hourly_object.last IS 'time of its last message';
COMMENT ON COLUMN hourly_object.messages IS 'how many';
COMMENT ON COLUMN hourly_object.recipients IS 'of all of them';
COMMENT ON COLUMN hourly_object.decision IS 'as messages.decision';
COMMENT ON COLUMN hourly_object.object_id IS 'as the column of hourly that class says: 0 is not known; of the server 0';
COMMENT ON COLUMN hourly_object.class IS '1 user_id, 2 mailbox_id, 3 domain_id, 4 subscription_id, 6 all of the server, 7 host_id';

CREATE TABLE daily_object (LIKE hourly_object INCLUDING COMMENTS);
CREATE INDEX daily_object_idx ON daily_object (class, object_id, at);
CREATE INDEX daily_object_at_idx ON daily_object (at, class);
COMMENT ON TABLE  daily_object IS 'as hourly_object, by day (UTC)';
COMMENT ON COLUMN daily_object.at IS 'beginning of the day';

CREATE TABLE summed (
  at    timestamptz NOT NULL,
  marks bigint      NOT NULL DEFAULT 0,
  dirty boolean     NOT NULL DEFAULT false,
  span  text        NOT NULL,
  CONSTRAINT summed_pkey PRIMARY KEY (span, at),
  CONSTRAINT summed_span CHECK (span IN ('hour', 'day'))
);
COMMENT ON TABLE  summed IS 'hours and days whose sums have been made';
COMMENT ON COLUMN summed.at IS 'its beginning';
COMMENT ON COLUMN summed.span IS 'hour: its sums are in hourly; day: in daily';
COMMENT ON COLUMN summed.marks IS 'how often it was made dirty: who sums up sees that it was again meanwhile';
COMMENT ON COLUMN summed.dirty IS 'rows came later (of an outage): the sums do not count, and are to be made again';

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
GRANT SELECT, INSERT, UPDATE, DELETE ON plan, subscription, domain, mailbox, system_user, limits, usage,
  exception, sender, event, notice, hourly, daily, hourly_object, daily_object, summed TO mailquotad;
GRANT SELECT, INSERT, DELETE ON returned TO mailquotad;
GRANT SELECT, INSERT ON host, messages, details, audit TO mailquotad;
GRANT SELECT ON server, schema_version, epoch TO mailquotad;
GRANT UPDATE (last_seen) ON host TO mailquotad;
GRANT UPDATE (mode) ON server TO mailquotad;

INSERT INTO server DEFAULT VALUES;
INSERT INTO epoch DEFAULT VALUES;
INSERT INTO plan (name, mode) VALUES ('default', NULL), ('system', 'off');
