//! The tables, the one row of `meta`, and how a database is opened so that what it shows is on disk.
//!
//! `records` is the log, each row the datafile's encoding; `epochs` its epoch table; `meta` the Node's few
//! durable names and numbers, under a crc that covers the epoch table too; `incoming` a Snapshot that is
//! being installed. Opening copies whatever the write-ahead log shows into the database file and syncs it:
//! after a failed fsync the kernel may show pages that never reached the disk. A file that was not closed
//! is not believed without its write-ahead log.

use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use rules::revision::{Epoch, Revision};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Row, Transaction, TransactionBehavior, params};

use super::failure::{Attempt, Failure};
use super::home::Home;
use super::{Meta, StoreIdentity};

const SCHEMA_VERSION: i64 = 1;
const APPLICATION_ID: i64 = 0x6e74_7379;

const TABLES: &str = "
    CREATE TABLE records(revision INTEGER PRIMARY KEY, record BLOB NOT NULL);
    CREATE TABLE epochs(first INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);
    CREATE TABLE meta(
        one INTEGER PRIMARY KEY CHECK (one = 1),
        cluster_id TEXT NOT NULL, node_id TEXT NOT NULL, incarnation TEXT NOT NULL,
        boot_seq INTEGER NOT NULL DEFAULT 0, promised INTEGER NOT NULL DEFAULT 0,
        committed INTEGER NOT NULL DEFAULT 0, durable INTEGER NOT NULL DEFAULT 0,
        pruned INTEGER NOT NULL DEFAULT 0, last INTEGER NOT NULL DEFAULT 0,
        is_open INTEGER NOT NULL DEFAULT 0, crc INTEGER NOT NULL DEFAULT 0);
";

/// Opens the writing connection, and says what the store holds. Everything it shows has been synced.
pub(super) fn open(
    home: Option<&Home>,
    identity: &StoreIdentity,
) -> Result<(Connection, Meta), Failure> {
    let Some(home) = home else {
        let mut connection = Connection::open_in_memory().attempt("opening the database")?;
        create(&mut connection, identity)?;
        let (_, meta) = read(&connection)?;
        return Ok((connection, meta));
    };
    home.check_in_place()?;
    let had_wal = home.has_wal();
    let mut connection = open_file(home, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    can_shrink(&connection)?;
    use_wal(&connection)?;
    empty_wal(&connection)?;
    let meta = prepare(&mut connection, &home.dir, identity, had_wal)?;
    set_open(&connection, true)?;
    empty_wal(&connection)?;
    home.reserve_wal()?;
    Ok((connection, meta))
}

/// Lets a file that is still empty give pages back later.
fn can_shrink(connection: &Connection) -> Result<(), Failure> {
    connection
        .execute_batch("PRAGMA auto_vacuum = INCREMENTAL")
        .attempt("opening the database")
}

fn use_wal(connection: &Connection) -> Result<(), Failure> {
    let attempted = "opening the database";
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .attempt(attempted)?;
    if mode == "wal" {
        return Ok(());
    }
    let why = format!("the file system allows journal mode {mode} only, and this needs wal");
    Err(Failure::Broken { attempted, why })
}

fn empty_wal(connection: &Connection) -> Result<(), Failure> {
    let attempted = "emptying the write-ahead log";
    let busy: bool = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .attempt(attempted)?;
    if busy {
        let why = "somebody else reads the database".to_owned();
        return Err(Failure::Broken { attempted, why });
    }
    Ok(())
}

/// Notes that the file is complete, and lets SQLite make it so and remove the write-ahead log when the
/// last connection goes.
pub(super) fn close(connection: &Connection) -> Result<(), Failure> {
    set_open(connection, false)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        .attempt("marking the database closed")?;
    Ok(())
}

/// Notes whether the file needs its write-ahead log to be complete.
fn set_open(connection: &Connection, open: bool) -> Result<(), Failure> {
    connection
        .execute("UPDATE meta SET is_open = ?1", [open])
        .attempt("marking the database open or closed")?;
    Ok(())
}

/// Opens one more connection to the file. Closing it leaves the write-ahead log where it is.
pub(super) fn open_file(home: &Home, access: OpenFlags) -> Result<Connection, Failure> {
    let attempted = "opening the database";
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(home.database(), flags).attempt(attempted)?;
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA busy_timeout = 10000;
             PRAGMA journal_size_limit = 67108864; PRAGMA trusted_schema = OFF;",
        )
        .attempt(attempted)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .attempt(attempted)?;
    Ok(connection)
}

/// Creates the tables of a new database, or checks that it is ours; then reads its `meta`.
fn prepare(
    connection: &mut Connection,
    dir: &Path,
    identity: &StoreIdentity,
    had_wal: bool,
) -> Result<Meta, Failure> {
    let attempted = "reading the database";
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .attempt(attempted)?;
    if tables == 0 {
        create(connection, identity)?;
    }
    check_version(connection, dir)?;
    connection
        .execute_batch("DROP TABLE IF EXISTS incoming")
        .attempt("dropping a half-installed Snapshot")?;
    let was_open: bool = connection
        .query_row("SELECT is_open FROM meta", [], |row| row.get(0))
        .attempt(attempted)?;
    if was_open && !had_wal {
        let why = "it was not closed, and its write-ahead log is missing".to_owned();
        return Err(corrupt(None, why));
    }
    let (owner, meta) = read(connection)?;
    if owner == *identity {
        return Ok(meta);
    }
    Err(Failure::Foreign {
        dir: dir.to_owned(),
        cluster_id: owner.cluster_id,
        node_id: owner.node_id,
        asked: format!(
            "Node `{}` of cluster `{}`",
            identity.node_id, identity.cluster_id
        ),
    })
}

fn create(connection: &mut Connection, identity: &StoreIdentity) -> Result<(), Failure> {
    let attempted = "creating the tables";
    let transaction = begin(connection, attempted)?;
    transaction.execute_batch(TABLES).attempt(attempted)?;
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .attempt(attempted)?;
    transaction
        .pragma_update(None, "user_version", SCHEMA_VERSION)
        .attempt(attempted)?;
    transaction
        .execute(
            "INSERT INTO meta(one, cluster_id, node_id, incarnation) VALUES (1, ?1, ?2, ?3)",
            params![identity.cluster_id, identity.node_id, random_name()],
        )
        .attempt(attempted)?;
    let (_, meta) = select(&transaction).attempt(attempted)?;
    write(&transaction, identity, &meta).attempt(attempted)?;
    transaction.commit().attempt(attempted)
}

fn check_version(connection: &Connection, dir: &Path) -> Result<(), Failure> {
    let pragma = |name| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .attempt("reading the database")
    };
    if pragma("application_id")? != APPLICATION_ID {
        return Err(corrupt(None, "it is not a database of Netsy".to_owned()));
    }
    match pragma("user_version")? {
        SCHEMA_VERSION => Ok(()),
        found => Err(Failure::Newer {
            dir: dir.to_owned(),
            found,
            ours: SCHEMA_VERSION,
        }),
    }
}

/// 128 random bits in hex.
fn random_name() -> String {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .expect("the kernel gives 16 random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Begins a writing transaction, which rolls back when dropped.
pub(super) fn begin<'c>(
    connection: &'c mut Connection,
    attempted: &'static str,
) -> Result<Transaction<'c>, Failure> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .attempt(attempted)
}

/// Reads and checks everything the Node must know of its log, and whose it is.
pub(super) fn read(connection: &Connection) -> Result<(StoreIdentity, Meta), Failure> {
    let attempted = "reading the Node's numbers";
    let (owner, meta) = select(connection).attempt(attempted)?;
    let crc: i64 = connection
        .query_row("SELECT crc FROM meta", [], |row| row.get(0))
        .attempt(attempted)?;
    if crc != meta_crc(&owner, &meta) {
        return Err(corrupt(
            None,
            "the crc of the Node's numbers is wrong".to_owned(),
        ));
    }
    let found: Option<i64> = connection
        .query_row("SELECT max(revision) FROM records", [], |row| row.get(0))
        .attempt(attempted)?;
    let found = Revision(found.unwrap_or(0) as u64);
    if found < meta.last {
        let why = format!("it is missing, and {} was written", meta.last);
        return Err(corrupt(Some(found.next()), why));
    }
    if found > meta.last {
        return Err(corrupt(
            Some(found),
            format!("the last that was written is {}", meta.last),
        ));
    }
    Ok((owner, meta))
}

/// Whether the file's pages fit one another: a Record whose row is gone has no crc that could be wrong.
pub(super) fn check(connection: &Connection) -> Result<(), Failure> {
    let said: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .attempt("checking the database")?;
    if said == "ok" {
        return Ok(());
    }
    Err(corrupt(None, format!("its pages do not fit: {said}")))
}

fn select(connection: &Connection) -> rusqlite::Result<(StoreIdentity, Meta)> {
    let epochs = connection
        .prepare("SELECT epoch, first FROM epochs ORDER BY first")?
        .query_map([], |row| {
            Ok((Epoch(number(row, 0)?), Revision(number(row, 1)?)))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    connection.query_row(
        "SELECT cluster_id, node_id, incarnation,
                boot_seq, promised, committed, durable, pruned, last FROM meta",
        [],
        |row| {
            let owner = StoreIdentity {
                cluster_id: row.get(0)?,
                node_id: row.get(1)?,
            };
            let meta = Meta {
                incarnation: row.get(2)?,
                boot_seq: number(row, 3)?,
                promised: Epoch(number(row, 4)?),
                committed: Revision(number(row, 5)?),
                durable: Revision(number(row, 6)?),
                pruned: Revision(number(row, 7)?),
                last: Revision(number(row, 8)?),
                epochs,
            };
            Ok((owner, meta))
        },
    )
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| value as u64)
}

/// Writes the numbers of `meta`, and the crc over them and the epoch table as `meta` has it.
pub(super) fn write(
    connection: &Connection,
    owner: &StoreIdentity,
    meta: &Meta,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE meta SET boot_seq = ?1, promised = ?2, committed = ?3, durable = ?4,
                             pruned = ?5, last = ?6, crc = ?7",
        )?
        .execute(params![
            meta.boot_seq as i64,
            meta.promised.0 as i64,
            meta.committed.wire(),
            meta.durable.wire(),
            meta.pruned.wire(),
            meta.last.wire(),
            meta_crc(owner, meta),
        ])?;
    Ok(())
}

fn meta_crc(owner: &StoreIdentity, meta: &Meta) -> i64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Xz);
    for name in [&owner.cluster_id, &owner.node_id, &meta.incarnation] {
        digest.update(&(name.len() as u64).to_le_bytes());
        digest.update(name.as_bytes());
    }
    let numbers = [
        meta.boot_seq,
        meta.promised.0,
        meta.committed.0,
        meta.durable.0,
        meta.pruned.0,
        meta.last.0,
    ];
    let epochs = meta
        .epochs
        .iter()
        .flat_map(|(epoch, first)| [epoch.0, first.0]);
    for number in numbers.into_iter().chain(epochs) {
        digest.update(&number.to_le_bytes());
    }
    digest.finalize() as i64
}

fn corrupt(revision: Option<Revision>, why: String) -> Failure {
    Failure::Corrupt { revision, why }
}
