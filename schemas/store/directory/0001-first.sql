-- directory.db, schema 1: what the directory last said. Belongs to the poller.

-- epoch, head, cursor, suspect, purged_seq, … : see agent/store/directory.rs.
create table meta (name text primary key, value text not null) strict, without rowid;

-- A compacted log. `seq` is the rowid: a change moves the row to the end, and readers ask for seq > cursor order by seq.
create table entry (
    seq            integer primary key,
    key            blob    not null unique,
    dn_norm        text    not null,
    born_seq       integer not null,            -- first heard of, ever: a reader before it was never told of this user
    first_seq      integer not null,            -- came into scope, the last time
    renamed_seq    integer not null default 0,
    gone_seq       integer not null default 0,  -- 0: present
    gone_kind      integer not null default 0,  -- 1 left scope, 2 deleted
    gone_at        integer,                     -- ms since 1970
    heard_at       integer not null,            -- ms since 1970: when the change that `seq` stands for was heard
    live           integer not null,            -- 0 first heard in a refresh, 1 heard live
    missing_since  integer,                     -- no longer named by the directory, not yet proven gone
    removal_named  integer not null default 0,  -- missing: 0 by absence, 1 named by the server, 2 approved by the operator
    attribute_seqs text,                        -- JSON {name: seq of its last change}; null until the first change
    record         text    not null             -- JSON of UserRecord, with the DN as the server writes it
) strict;
create index entry_missing on entry (seq) where missing_since is not null;
create index entry_gone on entry (gone_at) where gone_seq > 0;

-- What is no user but matters to users: containers (kind 1) and groups (kind 2).
create table place (key blob primary key, kind integer not null, dn text not null) strict, without rowid;

-- Members of the groups that rules need, DNs normalized.
create table membership (
    group_dn  text not null,
    member_dn text not null,
    primary key (group_dn, member_dn)
) strict, without rowid;
create index membership_member on membership (member_dn);

-- What the poller still has to read again, because servers do not tell it: stored with the change that gave rise to it.
-- Subtrees of containers that moved, came or went; DNs as the server writes them.
create table moved (id integer primary key, old_dn text, new_dn text) strict;
-- Users who joined (1) or left (0) a group where the server keeps memberOf; DNs normalized.
create table reread (
    member_dn text    not null,
    group_dn  text    not null,
    is_member integer not null,
    primary key (member_dn, group_dn)
) strict, without rowid;
