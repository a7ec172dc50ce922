-- Mail that comes by SMTP or is sent on: who may send as whom, and what was given
-- back.

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

CREATE TRIGGER sender_epoch AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sender EXECUTE FUNCTION next_epoch();

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

COMMENT ON COLUMN messages.id IS 'version 7, made by the daemon that was asked; the same at each try of a message that is sent on, of which only one is accepted';
COMMENT ON COLUMN messages.decision IS '1 accepted (charged), 2 refused (not charged), 3 accepted (charged) by mode observe, or by sender-check = report, where it would have been refused';
COMMENT ON COLUMN messages.uid IS 'of the caller, from the kernel; NULL where no program of this host sent it';

GRANT SELECT, INSERT, UPDATE, DELETE ON sender TO mailquotad;
GRANT SELECT, INSERT, DELETE ON returned TO mailquotad;
