//! The tables, what is in `meta`, and how a database is opened so that what it shows is on disk.
//!
//! `records(revision, record)` is the log, each row the datafile's encoding; `epochs(first, epoch)` its epoch
//! table; `meta(name, value)` the Node's few durable numbers and names; `incoming` a Snapshot that is
//! being installed. Opening copies whatever the write-ahead log shows into the database file and syncs it:
//! after a failed fsync the kernel may show pages that never reached the disk.

use std::path::Path;

use rules::revision::{Epoch, Revision};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::failure::{Attempt, Failure};
use super::home::Home;
use super::{Meta, StoreIdentity};

const SCHEMA_VERSION: i64 = 1;
const APPLICATION_ID: i64 = 0x6e74_7379;

const TABLES: &str = "
    CREATE TABLE records(revision INTEGER PRIMARY KEY, record BLOB NOT NULL);
    CREATE TABLE epochs(first INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);
    CREATE TABLE meta(name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
";

/// Opens the writing connection. Everything it shows has been synced.
pub(super) fn connect(home: Option<&Home>) -> Result<Connection, Failure> {
    let attempted = "opening the database";
    let Some(home) = home else {
        return Connection::open_in_memory().attempt(attempted);
    };
    home.check_in_place()?;
    let connection = open_file(home, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .attempt(attempted)?;
    if mode != "wal" {
        let why = format!("the file system allows journal mode {mode} only, and this needs wal");
        return Err(Failure::Broken { attempted, why });
    }
    let busy: bool = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .attempt("emptying the write-ahead log")?;
    if busy {
        let why = "somebody else reads the database".to_owned();
        return Err(Failure::Broken {
            attempted: "emptying the write-ahead log",
            why,
        });
    }
    home.reserve_wal()?;
    Ok(connection)
}

/// Opens one more connection to the file.
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
    Ok(connection)
}

/// Creates the tables of a new database, or checks that it is ours; then reads its `meta`.
pub(super) fn prepare(
    connection: &mut Connection,
    dir: &Path,
    identity: &StoreIdentity,
) -> Result<Meta, Failure> {
    let attempted = "reading the database";
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .attempt(attempted)?;
    if tables == 0 {
        create(connection, identity)?;
    }
    check(connection, dir, identity)?;
    connection
        .execute_batch("DROP TABLE IF EXISTS incoming")
        .attempt("dropping a half-installed Snapshot")?;
    read(connection)
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
    for (name, value) in [
        ("cluster_id", &identity.cluster_id),
        ("node_id", &identity.node_id),
        ("incarnation", &random_name()),
    ] {
        transaction
            .execute(
                "INSERT INTO meta(name, value) VALUES (?1, ?2)",
                params![name, value],
            )
            .attempt(attempted)?;
    }
    transaction.commit().attempt(attempted)
}

fn check(connection: &Connection, dir: &Path, identity: &StoreIdentity) -> Result<(), Failure> {
    let pragma = |name| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .attempt("reading the database")
    };
    if pragma("application_id")? != APPLICATION_ID {
        let why = "it is not a database of Netsy".to_owned();
        return Err(Failure::Corrupt {
            revision: None,
            why,
        });
    }
    let found = pragma("user_version")?;
    if found != SCHEMA_VERSION {
        return Err(Failure::Newer {
            dir: dir.to_owned(),
            found,
            ours: SCHEMA_VERSION,
        });
    }
    let (cluster_id, node_id) = (
        text(connection, "cluster_id")?,
        text(connection, "node_id")?,
    );
    if (&cluster_id, &node_id) == (&identity.cluster_id, &identity.node_id) {
        return Ok(());
    }
    let asked = format!(
        "Node `{}` of cluster `{}`",
        identity.node_id, identity.cluster_id
    );
    Err(Failure::Foreign {
        dir: dir.to_owned(),
        cluster_id,
        node_id,
        asked,
    })
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

/// Reads everything the Node must know of its log.
pub(super) fn read(connection: &Connection) -> Result<Meta, Failure> {
    let attempted = "reading the Node's numbers";
    let last: Option<i64> = connection
        .query_row("SELECT max(revision) FROM records", [], |row| row.get(0))
        .attempt(attempted)?;
    let epochs = connection
        .prepare("SELECT epoch, first FROM epochs ORDER BY first")
        .and_then(|mut rows| {
            rows.query_map([], |row| {
                Ok((
                    Epoch(row.get::<_, i64>(0)? as u64),
                    Revision(row.get::<_, i64>(1)? as u64),
                ))
            })?
            .collect()
        })
        .attempt(attempted)?;
    let number = |name| -> Result<u64, Failure> {
        let value: Option<i64> = connection
            .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()
            .attempt(attempted)?;
        Ok(value.unwrap_or(0) as u64)
    };
    let meta = Meta {
        incarnation: text(connection, "incarnation")?,
        boot_seq: number("boot_seq")?,
        promised: Epoch(number("promised")?),
        committed: Revision(number("committed")?),
        durable: Revision(number("durable")?),
        pruned: Revision(number("pruned")?),
        last: Revision(last.unwrap_or(0) as u64),
        epochs,
    };
    if meta.last < meta.committed {
        return Err(Failure::Corrupt {
            revision: Some(meta.last.next()),
            why: format!(
                "it is missing, and Records up to {} are committed",
                meta.committed
            ),
        });
    }
    Ok(meta)
}

fn text(connection: &Connection, name: &str) -> Result<String, Failure> {
    connection
        .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .attempt("reading the Node's names")
}

/// Writes those numbers of `new` that differ from `old`. Names never change.
pub(super) fn write_numbers(
    connection: &Connection,
    old: &Meta,
    new: &Meta,
) -> rusqlite::Result<()> {
    let numbers = |meta: &Meta| {
        [
            ("boot_seq", meta.boot_seq),
            ("promised", meta.promised.0),
            ("committed", meta.committed.0),
            ("durable", meta.durable.0),
            ("pruned", meta.pruned.0),
        ]
    };
    for ((name, new), (_, old)) in numbers(new).into_iter().zip(numbers(old)) {
        if new != old {
            connection
                .prepare_cached("INSERT OR REPLACE INTO meta(name, value) VALUES (?1, ?2)")?
                .execute(params![name, new as i64])?;
        }
    }
    Ok(())
}
