//! Registration: a Node's own document under `nodes/`, and the Elector's `members.json`.
//!
//! A Node writes its registration by compare-and-swap at each start, with a `boot_seq` that only rises: a
//! disk that finds a higher one there is an old copy, and the Node takes a new incarnation. The Elector gives
//! member ids, never one twice, and gives up registrations of Nodes that were silent for long. What registrations
//! said of disks is kept in `members.json` when they go, or when another disk takes over the name. Its existence
//! marks an initialised cluster.

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
    /// node_id to the disks that were registered and are not any more, of Nodes whose registration was given up or
    /// overwritten by that of another disk.
    #[serde(default)]
    pub left: BTreeMap<String, Left>,
}

/// The disks of one name that are not registered any more, or were not when the newest of them went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The disk that went last.
    pub incarnation: String,
    /// How often it was started.
    #[serde(deserialize_with = "countable")]
    pub boot_seq: u64,
    /// Those that went before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Disk>,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Which one.
    pub incarnation: String,
    /// How often it was started.
    #[serde(deserialize_with = "countable")]
    pub boot_seq: u64,
}

/// How many earlier disks of one name are remembered. A Node that always starts empty has a new one each time, and
/// must not fill the document.
const EARLIER_MAX: usize = 100;

impl Members {
    /// Whether this disk, or a later start of it, is noted as gone.
    fn has_left(&self, disk: &Registration) -> bool {
        let is_it = |incarnation: &str, boot_seq| {
            incarnation == disk.incarnation && boot_seq >= disk.boot_seq
        };
        self.left.get(&disk.node_id).is_some_and(|left| {
            is_it(&left.incarnation, left.boot_seq)
                || left
                    .earlier
                    .iter()
                    .any(|earlier| is_it(&earlier.incarnation, earlier.boot_seq))
        })
    }

    /// Notes the disk of a registration that goes. Whether that is news.
    fn note(&mut self, gone: &Registration) -> bool {
        if self.has_left(gone) {
            return false;
        }
        let mut earlier = Vec::new();
        if let Some(before) = self.left.remove(&gone.node_id) {
            earlier = before.earlier;
            earlier.push(Disk {
                incarnation: before.incarnation,
                boot_seq: before.boot_seq,
            });
            earlier.retain(|disk| disk.incarnation != gone.incarnation);
            earlier.drain(..earlier.len().saturating_sub(EARLIER_MAX));
        }
        let left = Left {
            incarnation: gone.incarnation.clone(),
            boot_seq: gone.boot_seq,
            earlier,
        };
        self.left.insert(gone.node_id.clone(), left);
        true
    }
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
/// `Bucket` failure, it wants the same `mark`. If it overwrites that of another disk, that one is noted first.
///
/// # Errors
/// `Refused`, when the document is damaged.
pub async fn register(
    bucket: &Bucket,
    cluster_id: &str,
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
        // What goes is noted here before it goes there: whoever looks there first misses neither.
        let members = bucket.read_as::<Members>(&Document::Members).await?;
        let (version, members) = members.unzip();
        let mut members = members.unwrap_or_default();
        if members.has_left(own) {
            return Ok(Registered::OldDisk);
        }
        let before = found.as_ref().map(|(_, before)| before);
        let another = before.filter(|before| before.incarnation != own.incarnation);
        if another.is_some_and(|another| members.note(another)) {
            if version.is_none() {
                cluster_id.clone_into(&mut members.cluster_id);
            }
            match write_members(bucket, version.as_ref(), members).await {
                Swapped::Won(_) => {}
                Swapped::Lost(_) => continue,
                Swapped::Unknown(why) => return Err(why.into()),
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

/// Puts the registration of a running Node back if there is none: somebody gave it up.
///
/// # Errors
/// A sentence.
pub(crate) async fn keep(bucket: &Bucket, own: &Registration) -> Result<(), String> {
    let document = Document::Node(own.node_id.clone());
    let found = bucket.read(&document).await;
    if found.map_err(|failure| failure.to_string())?.is_some() {
        return Ok(());
    }
    let again = Registration {
        seq: 1,
        mark: fresh_mark(),
        ..own.clone()
    };
    let body = serde_json::to_vec_pretty(&again).expect("plain structs always serialise");
    match bucket
        .swap(&document, None, Bytes::from(body), &again.mark)
        .await
    {
        Swapped::Won(_) => {
            tracing::warn!("the registration of this node was gone, and was made again");
            Ok(())
        }
        // Somebody was faster, or it is looked at again.
        Swapped::Lost(_) => Ok(()),
        Swapped::Unknown(why) => Err(why.to_string()),
    }
}

/// The Elector's duty: gives up the registration of a Node that was silent for long, as it was when that was
/// found. Stores delete without conditions: a Node that comes back in this very moment may lose the one it
/// just made, and makes it again when it is missed ([`keep`]).
///
/// # Errors
/// A sentence; nothing is lost by trying again.
pub(crate) async fn forget(bucket: &Bucket, gone: &Registration) -> Result<(), String> {
    let text = |failure: bucket::Failure| failure.to_string();
    let name = Document::Members.location();
    let found = bucket.read_as::<Members>(&Document::Members).await;
    let (version, mut members) = found.map_err(text)?.ok_or("there are no members")?;
    if members.note(gone) {
        settled(write_members(bucket, Some(&version), members).await)
            .map_err(|why| format!("write `{name}`: {why}"))?;
    }
    let document = Document::Node(gone.node_id.clone());
    let now = bucket.read_as::<Registration>(&document).await;
    if now
        .map_err(text)?
        .is_none_or(|(_, now)| now.mark != gone.mark)
    {
        return Ok(());
    }
    bucket.remove(&document).await.map_err(text)?;
    tracing::info!(
        node = gone.node_id,
        "a node was silent for `elector.forget_after`: its registration is given up"
    );
    Ok(())
}

/// Swaps `members.json`, under a fresh mark.
async fn write_members(
    bucket: &Bucket,
    expected: Option<&bucket::Version>,
    mut next: Members,
) -> Swapped {
    next.seq += 1;
    next.mark = fresh_mark();
    let body = serde_json::to_vec_pretty(&next).expect("plain structs always serialise");
    bucket
        .swap(&Document::Members, expected, Bytes::from(body), &next.mark)
        .await
}

fn settled(swapped: Swapped) -> Result<(), String> {
    match swapped {
        Swapped::Won(_) => Ok(()),
        Swapped::Lost(_) => Err("it was changed meanwhile".to_owned()),
        Swapped::Unknown(why) => Err(why.to_string()),
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

/// Who is registered, as the Elector finds it in the bucket.
#[derive(Debug)]
pub(crate) struct Listing {
    /// With the ids that the members have.
    pub(crate) members: Vec<Member>,
    /// As they lie there.
    pub(crate) registrations: Vec<Registration>,
}

/// The Elector's duty: gives every registered Node a member id, and says who the members are.
///
/// # Errors
/// A sentence. An unreadable registration is an error, not a smaller cluster.
pub(crate) async fn tend_members(bucket: &Bucket, cluster_id: &str) -> Result<Listing, String> {
    let text = |failure: bucket::Failure| failure.to_string();
    let mut nodes = Vec::new();
    for node_id in bucket.list_nodes().await.map_err(text)? {
        let document = Document::Node(node_id);
        let found = bucket.read_as::<Registration>(&document).await;
        nodes.extend(found.map_err(text)?.map(|(_, node)| node));
    }
    let name = Document::Members.location();
    let found = bucket.read_as::<Members>(&Document::Members).await;
    let (version, before) = found.map_err(text)?.unzip();
    let mut next = before.clone().unwrap_or_default();
    cluster_id.clone_into(&mut next.cluster_id);
    for node in &nodes {
        let free = next.members.values().max().map_or(1, |highest| highest + 1);
        next.members.entry(node.node_id.clone()).or_insert(free);
    }
    if before.as_ref() != Some(&next) {
        settled(write_members(bucket, version.as_ref(), next.clone()).await)
            .map_err(|why| format!("write `{name}`: {why}"))?;
    }
    let member = |node: &Registration| Member {
        member_id: next.members.get(&node.node_id).copied().unwrap_or(0),
        name: node.node_id.clone(),
        client_urls: node.client_urls.clone(),
        peer_urls: node.peer_urls.clone(),
    };
    Ok(Listing {
        members: nodes.iter().map(member).collect(),
        registrations: nodes,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn bucket() -> Bucket {
        Bucket::over(Arc::new(InMemory::new()), "the bucket", "prod")
    }

    fn start(incarnation: &str, boot_seq: u64) -> Registration {
        Registration {
            seq: 0,
            mark: fresh_mark(),
            node_id: "one".into(),
            incarnation: incarnation.into(),
            boot_seq,
            version: String::new(),
            client_urls: Vec::new(),
            peer_urls: Vec::new(),
        }
    }

    async fn registers(bucket: &Bucket, own: &Registration) -> Registered {
        register(bucket, "prod", own, &own.mark).await.unwrap()
    }

    async fn lies_there(bucket: &Bucket) -> Option<Registration> {
        let document = Document::Node("one".into());
        let found = bucket.read_as::<Registration>(&document).await.unwrap();
        found.map(|(_, found)| found)
    }

    #[tokio::test]
    async fn a_disk_is_known_after_its_registration_was_given_up() {
        let bucket = bucket();
        assert_eq!(registers(&bucket, &start("i", 3)).await, Registered::Done);
        let listing = tend_members(&bucket, "prod").await.unwrap();
        assert_eq!(listing.members[0].member_id, 1);
        forget(&bucket, &listing.registrations[0]).await.unwrap();
        assert!(lies_there(&bucket).await.is_none());
        for copy in [2, 3] {
            let registered = registers(&bucket, &start("i", copy)).await;
            assert_eq!(registered, Registered::OldDisk, "start {copy}");
        }
        assert_eq!(registers(&bucket, &start("i", 4)).await, Registered::Done);
        let listing = tend_members(&bucket, "prod").await.unwrap();
        assert_eq!(listing.members[0].member_id, 1, "ids are for ever");
        forget(&bucket, &listing.registrations[0]).await.unwrap();
        let empty = registers(&bucket, &start("j", 1)).await;
        assert_eq!(empty, Registered::Done, "another disk");
    }

    #[tokio::test]
    async fn h13_a_disk_is_known_after_another_one_took_over_its_name() {
        let bucket = bucket();
        assert_eq!(registers(&bucket, &start("i", 3)).await, Registered::Done);
        // No Elector has made the document yet.
        assert_eq!(registers(&bucket, &start("j", 1)).await, Registered::Done);
        check_cluster(&bucket, "prod").await.unwrap();
        for copy in [2, 3] {
            let registered = registers(&bucket, &start("i", copy)).await;
            assert_eq!(registered, Registered::OldDisk, "start {copy}");
        }
        tend_members(&bucket, "prod").await.unwrap();
        assert_eq!(registers(&bucket, &start("k", 1)).await, Registered::Done);
        // The Elector gives up the third: all of them are known, there or not.
        let listing = tend_members(&bucket, "prod").await.unwrap();
        forget(&bucket, &listing.registrations[0]).await.unwrap();
        assert!(lies_there(&bucket).await.is_none());
        for (disk, newest) in [("i", 3), ("j", 1), ("k", 1)] {
            let registered = registers(&bucket, &start(disk, newest)).await;
            assert_eq!(registered, Registered::OldDisk, "disk {disk}");
        }
        // The very disk that was lost may be found again: its next start is newer than what is known.
        assert_eq!(registers(&bucket, &start("i", 4)).await, Registered::Done);
        assert_eq!(registers(&bucket, &start("j", 2)).await, Registered::Done);
        let registered = registers(&bucket, &start("i", 4)).await;
        assert_eq!(registered, Registered::OldDisk, "the newer number counts");
    }

    #[tokio::test]
    async fn a_node_that_always_starts_empty_does_not_fill_the_document() {
        let bucket = bucket();
        registers(&bucket, &start("first", 1)).await;
        tend_members(&bucket, "prod").await.unwrap();
        for number in 0..EARLIER_MAX + 10 {
            let own = start(&number.to_string(), 1);
            assert_eq!(registers(&bucket, &own).await, Registered::Done);
        }
        let found = bucket.read_as::<Members>(&Document::Members).await;
        let (_, members) = found.unwrap().unwrap();
        assert_eq!(members.left["one"].earlier.len(), EARLIER_MAX);
        let last = start(&(EARLIER_MAX + 8).to_string(), 1);
        assert_eq!(registers(&bucket, &last).await, Registered::OldDisk);
    }

    /// As programs read `members.json` that know one disk of each name only.
    #[derive(Deserialize)]
    struct OlderMembers {
        left: BTreeMap<String, OlderLeft>,
    }

    #[derive(Deserialize)]
    struct OlderLeft {
        incarnation: String,
        boot_seq: u64,
    }

    #[test]
    fn older_programs_read_of_the_disk_that_went_last() {
        let mut members = Members::default();
        assert!(members.note(&start("i", 3)));
        let alone = serde_json::to_value(&members).unwrap();
        assert!(alone["left"]["one"].get("earlier").is_none(), "{alone}");
        assert!(members.note(&start("j", 1)));
        assert!(!members.note(&start("i", 2)), "known already");
        let body = serde_json::to_vec(&members).unwrap();
        let older: OlderMembers = serde_json::from_slice(&body).unwrap();
        let older = &older.left["one"];
        assert_eq!((older.incarnation.as_str(), older.boot_seq), ("j", 1));
        assert_eq!(serde_json::from_slice::<Members>(&body).unwrap(), members);
    }

    #[tokio::test]
    async fn who_came_back_meanwhile_is_not_forgotten() {
        let bucket = bucket();
        registers(&bucket, &start("i", 3)).await;
        let listing = tend_members(&bucket, "prod").await.unwrap();
        registers(&bucket, &start("i", 4)).await;
        forget(&bucket, &listing.registrations[0]).await.unwrap();
        let found = lies_there(&bucket).await.unwrap();
        assert_eq!(found.boot_seq, 4);
    }

    #[tokio::test]
    async fn whoever_lives_keeps_its_registration() {
        let bucket = bucket();
        let own = start("i", 3);
        registers(&bucket, &own).await;
        keep(&bucket, &own).await.unwrap();
        assert_eq!(lies_there(&bucket).await.unwrap().mark, own.mark);
        let document = Document::Node("one".into());
        bucket.remove(&document).await.unwrap();
        keep(&bucket, &own).await.unwrap();
        let made = lies_there(&bucket).await.unwrap();
        assert_eq!((made.incarnation.as_str(), made.boot_seq), ("i", 3));
        assert_ne!(made.mark, own.mark, "no content ever comes back");
    }

    #[tokio::test]
    async fn an_earlier_start_that_landed_late_does_not_make_a_disk_an_old_one() {
        let bucket = bucket();
        let late = start("i", 3);
        registers(&bucket, &late).await;
        let next = start("i", 4);
        assert_eq!(registers(&bucket, &next).await, Registered::Done);
        assert_eq!(registers(&bucket, &next).await, Registered::Done, "again");
        assert_eq!(registers(&bucket, &late).await, Registered::OldDisk);
    }
}
