-- enablement.db, schema 1: what was decided, reserved, applied and told. Belongs to the worker.
-- Times are milliseconds since 1970 UTC; keys are the 16 bytes of entryUUID.

create table meta (name text primary key, value text not null) strict, without rowid;

-- One row a user. `address` and `home` are columns of what `reserved` in `detail` says, for the index and the counts.
create table standing (
  id         integer primary key,
  key        blob    not null unique,
  version    integer not null,
  epoch      integer not null,
  seq        integer not null,
  status     text    not null,
  address    text,
  home       text,              -- the home whose place is taken now; null while the reservation only rests
  waiting_on text,
  mail_domain text,
  updated_at integer not null,
  detail     text    not null,  -- JSON
  record     text    not null   -- JSON of the UserRecord
) strict;

-- An address goes to one user; it also rests here after a release.
create unique index standing_address on standing(address) where address is not null;

-- A home that the configuration no longer names keeps its row while users live there.
create table home (
  id              text primary key,
  wish            text    not null default 'active',
  assigned        integer not null default 0,
  online_users    integer,
  online_assigned integer,
  online_at       integer,
  health          text,
  health_at       integer,
  health_why      text,
  config          text           -- JSON of the Home as last configured
) strict, without rowid;

-- Users whose entry is to be written. No payload: what to write is worked out from the newest record when it runs.
create table intent (
  key      blob primary key,
  class    integer not null,    -- 0 new account, 1 change, 2 bulk
  at       integer not null,    -- not before
  attempts integer not null default 0
) strict, without rowid;
create index intent_order on intent(class, at);

-- Look at this user again at this time.
create table due (
  key blob    not null,
  why text    not null,
  at  integer not null,
  primary key (key, why)
) strict, without rowid;
create index due_order on due(at);

-- A fact changed: look again, in chunks, at the standings that rest on it.
create table recheck (
  id    integer primary key autoincrement,
  about text    not null,       -- everyone | waiting:ROOM… | home:ID | domain:NAME | held | retry
  after integer not null default 0
) strict;

-- Guarded changes that wait: settling for a moment, or held until approved.
create table held (
  key         blob primary key,
  kind        text    not null,
  fingerprint text    not null,
  since       integer not null,
  tripped     integer not null default 0   -- 0 settling, 1 held
) strict, without rowid;

-- Guarded changes that went through, for the window.
create table passed (at integer not null, key blob not null, kind text not null) strict;
create index passed_at on passed(at);

create table problem (
  id        integer primary key autoincrement,
  key       blob    not null unique,
  code      text    not null,
  text      text    not null,
  hint      text    not null,
  opened_at integer not null,
  seen_at   integer not null,
  times     integer not null default 1,
  dismissed integer not null default 0
) strict;

-- The outcome feed: what became of users, in order. Kept for [queue] retention.
create table outcome (
  seq  integer primary key autoincrement,
  key  blob    not null,
  at   integer not null,
  kind text    not null,
  data text    not null         -- JSON, as in the event
) strict;
create index outcome_key on outcome(key, seq);

-- What DNS says, for every worker, plan and explain alike.
create table srv (
  domain     text primary key,
  fact       text    not null,  -- JSON of SrvFact
  expires_at integer not null
) strict, without rowid;

-- Facts that decisions rest on: a changed value is a new generation.
create table fact (
  name       text primary key,
  value      text    not null,
  generation integer not null,
  changed_at integer not null
) strict, without rowid;

-- What operators asked for; taken by the worker in order.
create table wish (
  id   integer primary key autoincrement,
  at   integer not null,
  who  text    not null,
  verb text    not null         -- JSON
) strict;

create table audit (
  id     integer primary key autoincrement,
  at     integer not null,
  who    text    not null,
  verb   text    not null,
  result text    not null
) strict;
