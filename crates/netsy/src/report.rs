//! Report: what a Node says of itself to an operator, as JSON at `/status` of the client port and the health
//! port. `netsy status` asks many Nodes for it.
//!
//! No key, no value, no secret. Fields are only added; whoever reads it takes a missing one for nothing.

use serde::{Deserialize, Serialize};

use crate::datafile;
use crate::peer;
use crate::standing::{Board, CommitPath, Member};
use crate::telemetry::{health_word, primary_word};

/// One Node, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The Node's name.
    pub node_id: String,
    /// The cluster's name.
    pub cluster_id: String,
    /// Its etcd id; 0 until it is known.
    pub member_id: u64,
    /// `loading`, `healthy` or `degraded`.
    pub health: String,
    /// Why it is not Healthy.
    pub reason: Option<String>,
    /// `replica`, `starting`, `active` or `draining`.
    pub primary_state: String,
    /// The Primary it knows.
    pub primary: Option<String>,
    /// Whether it is the Elector.
    pub elector: bool,
    /// The epoch it knows to be current.
    pub epoch: u64,
    /// The newest Record appended, committed or not.
    pub latest_revision: u64,
    /// The committed Revision.
    pub committed_revision: u64,
    /// The end of the chain in the bucket, as this Node knows it.
    pub bucket_revision: u64,
    /// The lowest Revision that can be read.
    pub compaction_revision: u64,
    /// Writes that wait for their commit.
    pub pending_writes: u64,
    /// `quorum` or `bucket`, on the Active Primary.
    pub commit_path: Option<String>,
    /// Whose disks' Receipts commit.
    pub voters: Vec<String>,
    /// What is committed and not in the bucket yet.
    pub unflushed: Unflushed,
    /// Bytes of the local database.
    pub database_bytes: u64,
    /// What it speaks and writes.
    pub versions: Versions,
    /// Who belongs to the cluster, as an Elector last told this Node.
    pub members: Vec<Listed>,
}

/// The unflushed window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unflushed {
    /// How many Records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// For how long the oldest of them has been committed, milliseconds.
    pub age_ms: u64,
}

/// What a program speaks and writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Versions {
    /// The program.
    pub netsy: String,
    /// The schema of the files in the bucket.
    pub data_file: u32,
    /// The messages between Nodes.
    pub peer: String,
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listed {
    /// Its name.
    pub node_id: String,
    /// Its etcd id.
    pub member_id: u64,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

impl From<&Member> for Listed {
    fn from(member: &Member) -> Listed {
        Listed {
            node_id: member.name.clone(),
            member_id: member.member_id,
            client_urls: member.client_urls.clone(),
        }
    }
}

impl Report {
    /// What `board` shows now.
    #[must_use]
    pub fn of(board: &Board) -> Report {
        let (standing, figures) = (board.standing(), board.figures());
        let path = figures.path.map(|path| match path {
            CommitPath::Quorum => "quorum",
            CommitPath::Bucket => "bucket",
        });
        Report {
            node_id: standing.node_id.clone(),
            cluster_id: standing.cluster_id.clone(),
            member_id: standing.member_id,
            health: health_word(standing.health).to_owned(),
            reason: standing.reason.clone(),
            primary_state: primary_word(standing.primary_state).to_owned(),
            primary: standing.leader_name.clone(),
            elector: standing.elector,
            epoch: standing.epoch.0,
            latest_revision: figures.latest.0,
            committed_revision: figures.committed.0,
            bucket_revision: figures.durable.0,
            compaction_revision: figures.floor.0,
            pending_writes: figures.pending,
            commit_path: path.map(str::to_owned),
            voters: figures.voters.clone(),
            unflushed: Unflushed {
                records: figures.unflushed.records,
                bytes: figures.unflushed.bytes,
                age_ms: figures.unflushed.age,
            },
            database_bytes: board.sizes().total,
            versions: Versions {
                netsy: env!("CARGO_PKG_VERSION").to_owned(),
                data_file: datafile::SCHEMA_VERSION,
                peer: peer::VERSION.to_owned(),
            },
            members: standing.members.iter().map(Listed::from).collect(),
        }
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain structs always serialise")
    }
}
