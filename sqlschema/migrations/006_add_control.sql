-- What an administrator decides besides limits: whether limits are enforced,
-- exceptions from them, and who is told of what happens. And the sums by hour
-- and day from which reports are made.

-- Modes. A plan that was exempt is one of mode off.
ALTER TABLE server       ADD COLUMN mode text, ADD CONSTRAINT server_mode       CHECK (mode IN ('off', 'observe', 'enforce'));
ALTER TABLE plan         ADD COLUMN mode text, ADD CONSTRAINT plan_mode         CHECK (mode IN ('off', 'observe', 'enforce'));
ALTER TABLE subscription ADD COLUMN mode text, ADD CONSTRAINT subscription_mode CHECK (mode IN ('off', 'observe', 'enforce'));
ALTER TABLE domain       ADD COLUMN mode text, ADD CONSTRAINT domain_mode       CHECK (mode IN ('off', 'observe', 'enforce'));
ALTER TABLE mailbox      ADD COLUMN mode text, ADD CONSTRAINT mailbox_mode      CHECK (mode IN ('off', 'observe', 'enforce'));
ALTER TABLE system_user  ADD COLUMN mode text, ADD CONSTRAINT system_user_mode  CHECK (mode IN ('off', 'observe', 'enforce'));
ALTER TABLE plan DISABLE TRIGGER plan_epoch; -- no daemon of before runs on, so none has to forget anything
UPDATE plan SET mode = 'off' WHERE exempt;
ALTER TABLE plan ENABLE TRIGGER plan_epoch;
ALTER TABLE plan DROP COLUMN exempt;
COMMENT ON COLUMN server.mode IS 'what its limits and those of all below do: enforce refuses, observe lets all through and records what it would have refused, off only counts; NULL: enforce. The nearest one set on the way from user or mailbox, domain, subscription and plan to the server holds for a message';
COMMENT ON COLUMN plan.mode IS 'as server.mode; NULL: inherited; the other tables alike';

ALTER TABLE subscription ADD COLUMN contact text;
COMMENT ON COLUMN subscription.contact IS 'address to which its customer gets notifications; NULL: none';

ALTER TABLE messages DROP CONSTRAINT messages_decision, DROP CONSTRAINT messages_refused;
ALTER TABLE messages ADD CONSTRAINT messages_decision CHECK (decision IN (1, 2, 3)),
  ADD CONSTRAINT messages_refused CHECK ((decision <> 1) = (refused_why IS NOT NULL));
COMMENT ON COLUMN messages.decision IS '1 accepted (charged), 2 refused (not charged), 3 accepted (charged) by mode observe, where it would have been refused';
COMMENT ON COLUMN messages.refused_object IS 'object whose limit refused it, or that is blocked';
COMMENT ON COLUMN messages.refused_limit IS '0 messages/hour, 1 messages/day, 2 recipients/hour, 3 recipients/day, 4 recipients/message; NULL where no limit refused it';
COMMENT ON COLUMN messages.refused_why IS 'the line that the caller was given, or would have been';
COMMENT ON COLUMN usage.state IS 'non-empty slots, oldest first, and what of them does not count; package quota, type Usage, says how';

-- Rows come nearly in order of time, so a tiny index finds those of an hour.
CREATE INDEX messages_at_idx ON messages USING brin (at) WITH (pages_per_range = 16, autosummarize = on);

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
CREATE TRIGGER exception_epoch AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON exception EXECUTE FUNCTION next_epoch();
CREATE TRIGGER server_epoch    AFTER UPDATE OR DELETE OR TRUNCATE           ON server    EXECUTE FUNCTION next_epoch();

-- Who asks what was changed names an object, somebody or a time.
CREATE INDEX audit_object_idx ON audit (left(object, 200), at, id); -- a path is too long for an index
CREATE INDEX audit_actor_idx ON audit (actor, at, id);
CREATE INDEX audit_at_idx ON audit (at, id);

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

GRANT SELECT, INSERT, UPDATE, DELETE ON exception, event, notice, hourly, daily, hourly_object, daily_object, summed TO mailquotad;
GRANT UPDATE (mode) ON server TO mailquotad;
