-- directory.db, schema 1: what the directory last said. Belongs to the poller.
-- `entry` is a compacted log: a change gives the row the next seq; readers ask for seq > cursor order by seq.
-- (columns: see agent/store/directory.rs)
create table meta (name text primary key, value text not null) strict, without rowid;
