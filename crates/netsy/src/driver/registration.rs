//! Registration: a Node's own document under `nodes/`, and the Elector's `members.json`.
//!
//! A Node writes its registration by compare-and-swap at each start, with a `boot_seq` that only rises: a
//! disk that finds a higher one there is an old copy, and the Node takes a new incarnation. Member ids are
//! given by the Elector and never used twice. The existence of `members.json` marks an initialised cluster.

use std::collections::BTreeMap;

use bytes::Bytes;
use rules::register::countable;
use serde::{Deserialize, Deserializer, Serialize};

use crate::bucket::{self, Bucket, Document, Swapped, fresh_mark};
use crate::standing::Member;

/// `nodes/{node_id}.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Raised by every swap.
    #[serde(default, deserialize_with = "countable")]
    pub seq: u64,
    /// Random, fresh at every swap.
    #[serde(default)]
    pub mark: String,
    /// The Node's name.
    pub node_id: String,
    /// Its disk.
    #[serde(default)]
    pub incarnation: String,
    /// How often this disk was started.
    #[serde(default, deserialize_with = "countable")]
    pub boot_seq: u64,
    /// The program's version.
    #[serde(default)]
    pub version: String,
    /// Where clients reach the Node.
    #[serde(default)]
    pub client_urls: Vec<String>,
    /// Where Nodes reach the Node.
    #[serde(default)]
    pub peer_urls: Vec<String>,
}

/// `members.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Raised by every swap.
    #[serde(default, deserialize_with = "countable")]
    pub seq: u64,
    /// Random, fresh at every swap.
    #[serde(default)]
    pub mark: String,
    /// The cluster the bucket belongs to.
    pub cluster_id: String,
    /// node_id to member id: 1, 2, 3 ..., given by the Elector, never given twice.
    #[serde(deserialize_with = "countable_all")]
    pub members: BTreeMap<String, u64>,
}

/// As [`countable`], for the numbers of a map.
fn countable_all<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, u64>, D::Error> {
    #[derive(Deserialize)]
    struct Number(#[serde(deserialize_with = "countable")] u64);
    let numbers = BTreeMap::<String, Number>::deserialize(from)?;
    Ok(numbers
        .into_iter()
        .map(|(name, Number(number))| (name, number))
        .collect())
}

/// What came of registering.
#[derive(Debug, PartialEq, Eq)]
pub enum Registered {
    /// The registration stands.
    Done,
    /// The disk is an older copy of one that was started since: it needs a new incarnation.
    OldDisk,
}

/// Why a Node could not join its cluster.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// The bucket did not answer, or not usefully: try again.
    #[error(transparent)]
    Bucket(bucket::Failure),
    /// A document cannot be read, or names another cluster: an operator has to look.
    #[error("{0}")]
    Refused(String),
}

impl From<bucket::Failure> for JoinFailure {
    fn from(failure: bucket::Failure) -> JoinFailure {
        use bucket::Failure::{Denied, TryAgain};
        match failure {
            TryAgain { .. } | Denied { .. } => JoinFailure::Bucket(failure),
            failure => JoinFailure::Refused(failure.to_string()),
        }
    }
}

/// Checks that the bucket belongs to `cluster_id`, if it belongs to anybody yet.
///
/// # Errors
/// `Refused`: the bucket is another cluster's, or its `members.json` is damaged.
pub async fn check_cluster(bucket: &Bucket, cluster_id: &str) -> Result<(), JoinFailure> {
    let Some((_, members)) = bucket.read_as::<Members>(&Document::Members).await? else {
        return Ok(());
    };
    if members.cluster_id != cluster_id {
        return Err(JoinFailure::Refused(format!(
            "the bucket belongs to cluster `{}`, and this node is configured for cluster `{cluster_id}`: \
             use another bucket or prefix, or correct `cluster_id`",
            members.cluster_id
        )));
    }
    Ok(())
}

/// Writes a Node's registration, for itself or for a Node that cannot reach the bucket. Asked again after a
/// `Bucket` failure, it wants the same `mark`.
///
/// # Errors
/// `Refused`, when the document is damaged.
pub async fn register(
    bucket: &Bucket,
    own: &Registration,
    mark: &str,
) -> Result<Registered, JoinFailure> {
    let document = Document::Node(own.node_id.clone());
    loop {
        let found = bucket.read_as::<Registration>(&document).await?;
        if let Some((_, before)) = &found {
            // An attempt whose answer was lost, or that landed late, or that somebody made for us.
            if before.mark == mark {
                return Ok(Registered::Done);
            }
            if before.incarnation == own.incarnation && before.boot_seq >= own.boot_seq {
                return Ok(Registered::OldDisk);
            }
        }
        let next = Registration {
            seq: found.as_ref().map_or(0, |(_, before)| before.seq) + 1,
            mark: mark.to_owned(),
            ..own.clone()
        };
        let body = serde_json::to_vec_pretty(&next).expect("plain structs always serialise");
        let version = found.map(|(version, _)| version);
        match bucket
            .swap(&document, version.as_ref(), Bytes::from(body), mark)
            .await
        {
            Swapped::Won(_) => return Ok(Registered::Done),
            // By whom, and which start, the next look tells: it may be an earlier one that landed late.
            Swapped::Lost(_) => {}
            Swapped::Unknown(why) => return Err(why.into()),
        }
    }
}

/// The member ids that `members.json` names, for a Node that is not the Elector: of everybody who ever
/// registered.
///
/// # Errors
/// A sentence.
pub(crate) async fn known_ids(bucket: &Bucket) -> Result<BTreeMap<String, u64>, String> {
    let found = bucket.read_as::<Members>(&Document::Members).await;
    let found = found.map_err(|failure| failure.to_string())?;
    Ok(found.map_or_else(BTreeMap::new, |(_, members)| members.members))
}

/// The Elector's duty: gives every registered Node a member id, and says who the members are.
///
/// # Errors
/// A sentence. An unreadable registration is an error, not a smaller cluster.
pub(crate) async fn tend_members(bucket: &Bucket, cluster_id: &str) -> Result<Vec<Member>, String> {
    let mut nodes = Vec::new();
    for node_id in bucket
        .list_nodes()
        .await
        .map_err(|failure| failure.to_string())?
    {
        let document = Document::Node(node_id);
        let name = document.location();
        let found = bucket
            .read(&document)
            .await
            .map_err(|failure| failure.to_string())?;
        let Some(found) = found else { continue };
        let node: Registration = serde_json::from_slice(&found.body)
            .map_err(|error| format!("read `{name}`: {error}"))?;
        nodes.push(node);
    }
    let document = Document::Members;
    let name = document.location();
    let found = bucket
        .read(&document)
        .await
        .map_err(|failure| failure.to_string())?;
    let before: Option<Members> = found
        .as_ref()
        .map(|found| serde_json::from_slice(&found.body))
        .transpose()
        .map_err(|error| format!("read `{name}`: {error}"))?;
    let mut next = before.clone().unwrap_or_default();
    cluster_id.clone_into(&mut next.cluster_id);
    for node in &nodes {
        let free = next.members.values().max().map_or(1, |highest| highest + 1);
        next.members.entry(node.node_id.clone()).or_insert(free);
    }
    if before.as_ref() != Some(&next) {
        next.seq += 1;
        next.mark = fresh_mark();
        let body = serde_json::to_vec_pretty(&next).expect("plain structs always serialise");
        let version = found.map(|found| found.version);
        match bucket
            .swap(&document, version.as_ref(), Bytes::from(body), &next.mark)
            .await
        {
            Swapped::Won(_) => {}
            Swapped::Lost(_) => return Err(format!("`{name}` was changed meanwhile")),
            Swapped::Unknown(why) => return Err(format!("write `{name}`: {why}")),
        }
    }
    Ok(nodes
        .into_iter()
        .map(|node| Member {
            member_id: next.members.get(&node.node_id).copied().unwrap_or(0),
            name: node.node_id,
            client_urls: node.client_urls,
            peer_urls: node.peer_urls,
        })
        .collect())
}
