//! `netsy admin force-elect`: gives up voters that are gone for good, so that the next election needs no
//! promises; with them goes what they alone had acknowledged.
//!
//! It works on the bucket alone, by one swap of the register: the next epoch, claimed, without voters. What
//! follows is an ordinary election of a cluster without voters: the Elector waits for the read leases that may
//! run, names the best log among the Nodes it hears, and that Node's fence takes the tail slot, so that no
//! older Primary extends the chain. What this cannot do is to keep an old Primary that lives on without the
//! bucket, together with enough of its voters, from acknowledging more: that is for the operator to know.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rules::quorum::promises_needed;
use rules::record::Kind;
use rules::register::{Lock, Phase, Register};
use rules::revision::{Epoch, Revision};
use tokio::time::sleep;

use crate::bucket::{self, Bucket, Document, Swapped, Version, fresh_mark};
use crate::driver::Members;
use crate::exit::RunError;

/// How often the bucket is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const ATTEMPTED: &str = "give up the voters";

/// What the operator asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The cluster's name, which the bucket must have.
    pub cluster_id: String,
    /// Whether writes may be lost. Without it nothing is changed.
    pub accepts_loss: bool,
    /// For how long it is looked whether a Primary is at work.
    pub look_for: Duration,
    /// How long a Primary is waited for afterwards.
    pub wait: Duration,
}

/// Where the chain in the bucket ends.
struct End {
    revision: Revision,
    /// Who wrote its newest Chunk, in which epoch, and when; not known if a Snapshot is all there is.
    written: Option<(String, Epoch, SystemTime)>,
}

/// Says how things are, and, if the loss is accepted, gives up the voters and waits for a Primary.
///
/// # Errors
/// There is nothing to give up, a Primary is at work, the loss is not accepted, or the bucket does not answer.
pub async fn run(bucket: &Bucket, wish: &Wish, say: &mut impl FnMut(&str)) -> Result<(), RunError> {
    let (version, register) = register_with_voters(bucket, &wish.cluster_id).await?;
    let end = chain_end(bucket).await.map_err(failed)?;
    let lock = lock(bucket).await.map_err(failed)?;
    say(&format!(
        "looking for {} whether a Primary is at work\n",
        humantime::format_duration(wish.look_for)
    ));
    sleep(wish.look_for).await;
    let (_, still) = register_with_voters(bucket, &wish.cluster_id).await?;
    let grown = chain_end(bucket).await.map_err(failed)?.revision;
    let held = self::lock(bucket).await.map_err(failed)?;
    let renewed = lock.map(|lock| lock.seq) != held.as_ref().map(|lock| lock.seq);
    if still.seq != register.seq || grown != end.revision {
        let why = "a Primary, or an Elector that finds one, is at work: the register or the chain changed meanwhile";
        return Err(RunError::setup(ATTEMPTED, why, "look again if it stops"));
    }
    say(&situation(&register, held.as_ref(), renewed, &end));
    if !wish.accepts_loss {
        let remedy = "`--yes-i-accept-losing-writes` goes on";
        return Err(RunError::setup(ATTEMPTED, "nothing was changed", remedy));
    }
    let forced = give_up(bucket, &version, &register, say).await?;
    say(&format!(
        "\nthe register: epoch {}, claimed, no voters: the next election needs no promises\n",
        forced.epoch
    ));
    await_primary(bucket, &forced, &end, wish.wait, say).await
}

fn failed(failure: bucket::Failure) -> RunError {
    RunError::failed(ATTEMPTED, failure, "see that the bucket answers")
}

/// The register, if there is a voter in it to be given up.
async fn register_with_voters(
    bucket: &Bucket,
    cluster_id: &str,
) -> Result<(Version, Register), RunError> {
    let members = bucket.read_as::<Members>(&Document::Members).await;
    let owner = members
        .map_err(failed)?
        .map(|(_, members)| members.cluster_id);
    if owner.as_deref() != Some(cluster_id) {
        let why = match owner {
            Some(owner) => format!("the bucket belongs to cluster `{owner}`, not `{cluster_id}`"),
            None => "there is no cluster in this bucket".to_owned(),
        };
        return Err(RunError::setup(ATTEMPTED, why, "name the right bucket"));
    }
    let found = bucket.read_as::<Register>(&Document::Primary).await;
    match found.map_err(failed)? {
        Some((version, register)) if !register.voters.is_empty() => Ok((version, register)),
        _ => Err(RunError::setup(
            ATTEMPTED,
            "the register names no voters: an election needs no promises",
            "start a node; see `netsy status`",
        )),
    }
}

async fn lock(bucket: &Bucket) -> Result<Option<Lock>, bucket::Failure> {
    let found = bucket.read_as::<Lock>(&Document::Elector).await?;
    Ok(found.map(|(_, lock)| lock))
}

async fn chain_end(bucket: &Bucket) -> Result<End, bucket::Failure> {
    use futures::StreamExt;
    let snapshots = bucket.list_snapshots().await?;
    let snapshot = snapshots.last().copied().unwrap_or_default();
    let mut end = End {
        revision: snapshot,
        written: None,
    };
    let mut chunks = bucket.fetch_chunks(snapshot.next(), 4);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if let Some(last) = chunk.records.last() {
            end.revision = last.record.revision;
        }
        let origin = chunk.origin;
        let since = Duration::from_nanos(u64::try_from(origin.created_at).unwrap_or_default());
        let at = SystemTime::UNIX_EPOCH + since;
        end.written = Some((origin.node_id, origin.epoch, at));
    }
    Ok(end)
}

/// How things are, and what may be lost.
fn situation(register: &Register, lock: Option<&Lock>, renewed: bool, end: &End) -> String {
    let names = register
        .voters
        .iter()
        .map(|voter| format!("`{}`", voter.node_id));
    let names: Vec<String> = names.collect();
    let primary = match &register.primary {
        Some(primary) => format!("node `{}` is named Primary", primary.node_id),
        None => "nobody is named".to_owned(),
    };
    let elector = lock.and_then(|lock| lock.elector.as_ref());
    let elector = match elector {
        None => "held by nobody".to_owned(),
        Some(elector) if renewed => format!("held by node `{}`, which renews it", elector.node_id),
        Some(elector) => format!(
            "held by node `{}`, which did not renew it meanwhile",
            elector.node_id
        ),
    };
    let written = match &end.written {
        Some((node, epoch, at)) => format!(
            ", written by node `{node}` in epoch {epoch} at {}",
            humantime::format_rfc3339_seconds(*at)
        ),
        None => String::new(),
    };
    format!(
        "\nneither the register nor the chain changed meanwhile: no Primary writes. One that nobody writes to looks the\n\
         same from here: see that `netsy status --cluster` shows none\n\
         \n\
         the register: epoch {}, {primary}; voters {}: an election needs the promises of {} of these disks\n\
         the elector lock: {elector}\n\
         the chain in the bucket ends at Revision {}{written}\n\
         \n\
         What is given up: every write that was acknowledged after Revision {} and is on no disk of a Node that\n\
         takes part in the next election. In good weather these are the writes of the last\n\
         `replication.upload_age`; if the bucket was away before, of all that time. Their Revisions are given\n\
         to other writes: start clients that cache again (kube-apiserver, controllers).\n\
         \n\
         Before that:\n\
         - Start every Node whose disk is left, and wait until `netsy status` shows it: of those that are there\n\
         \x20 the best log is taken.\n\
         - Make sure that the Primary and the voters that are gone do not live on somewhere without the bucket.\n\
         \x20 There they would go on acknowledging writes to clients they reach, and all of those would be lost.\n",
        register.epoch,
        names.join(", "),
        promises_needed(register.voters.len(), register.quorum),
        end.revision,
        end.revision,
    )
}

/// Swaps the register, however often its outcome is unknown.
async fn give_up(
    bucket: &Bucket,
    version: &Version,
    register: &Register,
    say: &mut impl FnMut(&str),
) -> Result<Register, RunError> {
    let forced = Register {
        seq: register.seq + 1,
        mark: fresh_mark(),
        epoch: register.epoch.next(),
        primary: None,
        // Not closed: whoever appoints waits until every read lease that was granted has run out.
        phase: Phase::Claimed,
        voters: Vec::new(),
        ..register.clone()
    };
    let body = serde_json::to_vec_pretty(&forced).expect("plain structs always serialise");
    let body = Bytes::from(body);
    let mut unknown = false;
    loop {
        let swap = bucket.swap(
            &Document::Primary,
            Some(version),
            body.clone(),
            &forced.mark,
        );
        match swap.await {
            Swapped::Won(_) => return Ok(forced),
            Swapped::Lost(_) => {
                let (why, remedy) = if unknown {
                    // An attempt may have come to pass, and an Elector gone on from there.
                    (
                        "the register was changed while it was not known what became of the swap; the votes may \
                         have been given up",
                        "look again: `netsy status --cluster` says whether there is a Primary",
                    )
                } else {
                    (
                        "the register was changed meanwhile; nothing was given up",
                        "look again",
                    )
                };
                return Err(RunError::failed(ATTEMPTED, why, remedy));
            }
            Swapped::Unknown(why) => {
                unknown = true;
                say(&format!(
                    "it is not known yet what became of it, trying again: {why}\n"
                ));
                sleep(LOOK_EVERY).await;
            }
        }
    }
}

async fn await_primary(
    bucket: &Bucket,
    forced: &Register,
    end: &End,
    wait: Duration,
    say: &mut impl FnMut(&str),
) -> Result<(), RunError> {
    let until = Instant::now() + wait;
    while Instant::now() < until {
        // It may not answer now and then: only what it says counts.
        let found = bucket.read_as::<Register>(&Document::Primary).await;
        if let Ok(Some((_, register))) = found
            && register.epoch > forced.epoch
            && register.phase == Phase::Active
            && let Some(primary) = register.primary
        {
            let kept = kept_beyond(bucket, end.revision).await.map_err(failed)?;
            say(&format!(
                "node `{}` is the Primary in epoch {}; it had {kept} Records after Revision {} on its disk, and \
                 kept them\n\
                 A Node that held more refuses to go on, and says that the chain differs from what was committed\n\
                 there: put its data directory aside, where its writes can be looked for, and start it empty.\n",
                primary.node_id, register.epoch, end.revision
            ));
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
    Err(RunError::failed(
        "wait for a primary",
        format!("none within {}", humantime::format_duration(wait)),
        "the voters are given up: start a node, with its disk if that is left, and see `netsy status`",
    ))
}

/// How many Records beyond `end` the next Primary brought to the chain with its fence.
async fn kept_beyond(bucket: &Bucket, end: Revision) -> Result<usize, bucket::Failure> {
    let fence = bucket.get_chunk(end.next()).await?;
    let records = fence.map(|fence| fence.records).unwrap_or_default();
    let mut records = records.iter();
    Ok(records
        .position(|encoded| encoded.record.kind == Kind::Epoch)
        .unwrap_or_default())
}
