//! `netsy admin force-elect`: a majority of voters is gone for good, and an operator accepts what that costs.

use std::sync::Arc;
use std::time::Duration;

use netsy::admin::force_elect::{Wish, run};
use netsy::bucket::faults::Fault;
use netsy::exit::RunError;
use rules::revision::Revision;

use super::cluster::{NAMES, calm_cluster, register, stop, take, until_voters};
use super::load::{Ledger, Load, history, is_one_chain, some_load};
use super::node::{CLUSTER, Place, Running, new_chunks, until};

/// What the command says, and how it ends.
async fn force_elect(place: &Place, accepts_loss: bool) -> (String, Result<(), RunError>) {
    let wish = Wish {
        cluster_id: CLUSTER.to_owned(),
        accepts_loss,
        look_for: Duration::from_millis(900),
        wait: Duration::from_secs(20),
    };
    let mut said = String::new();
    let mut say = |text: &str| said += text;
    let ended = run(&place.bucket(), &wish, &mut say).await;
    println!("{said}{ended:?}");
    (said, ended)
}

/// The last Revision of the chain in the bucket.
async fn chain_end(place: &Place) -> u64 {
    let mut chunks = place.bucket().fetch_chunks(Revision(1), 4);
    let mut end = 0;
    while let Some(chunk) = tokio_stream::StreamExt::next(&mut chunks).await {
        end = chunk.unwrap().records.last().unwrap().record.revision.0;
    }
    end
}

/// Three Nodes of which two acknowledged what neither the bucket nor the third has; those two are killed, and
/// the survivor runs again. Its name, the Primary's, and where the chain ended.
async fn stranded(place: &Place, ledger: &Arc<Ledger>) -> (Running, String, u64) {
    let mut nodes = calm_cluster(place).await;
    let primary = take(place, &mut nodes, true).await;
    let named = primary.name.clone();
    some_load(ledger, &primary).await;
    let survivor = nodes.remove(0);
    let name = survivor.name.clone();
    survivor.kill().await;
    until("everything is in the bucket", || async {
        chain_end(place).await == u64::try_from(ledger.acknowledged()).unwrap()
    })
    .await;
    primary.sky.set(new_chunks(Fault::Hang));
    let end = chain_end(place).await;
    some_load(ledger, &primary).await;
    let other = nodes.remove(0);
    let lost = other.name.clone();
    primary.kill().await;
    other.kill().await;
    std::fs::remove_dir_all(place.disk(&lost)).unwrap();
    let survivor = place.calm_member(&name).start().await;
    (survivor, named, end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_two_disks_of_three_is_writable_again() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    let (survivor, primary, end) = stranded(&place, &ledger).await;
    until("the survivor is the Elector, and asks in vain", || async {
        let ready = survivor.ready().await;
        ready.is_err_and(|said| said.contains("hears no active primary"))
    })
    .await;
    let before = register(&place).await;
    assert_eq!(before.voters.len(), 3);

    let (said, ended) = force_elect(&place, false).await;
    let refused = ended.unwrap_err().to_string();
    assert!(refused.contains("nothing was changed"), "{refused}");
    assert!(
        refused.contains("--yes-i-accept-losing-writes"),
        "{refused}"
    );
    assert!(said.contains(&format!("the chain in the bucket ends at Revision {end}")));
    assert!(said.contains(&format!("acknowledged after Revision {end}")));
    assert!(
        said.contains("needs the promises of 2 of these disks"),
        "{said}"
    );
    assert_eq!(register(&place).await, before);

    let (said, ended) = force_elect(&place, true).await;
    ended.unwrap();
    let name = &survivor.name;
    assert!(said.contains(&format!("node `{name}` is the Primary in epoch")));
    survivor.healthy().await;
    let after = register(&place).await;
    assert!(after.epoch > before.epoch && after.voters.is_empty());

    // What was acknowledged after the end of the chain is lost, nothing else, and the chain is whole.
    let written = history(&survivor, 1).await;
    let kept = written.iter().filter(|one| one.key.starts_with("load/"));
    assert!(kept.clone().count() >= 20);
    assert!(
        kept.clone()
            .all(|one| one.revision <= i64::try_from(end).unwrap())
    );
    assert!(ledger.done() > kept.count(), "something was lost");
    let fresh = Arc::new(Ledger::default());
    some_load(&fresh, &survivor).await;
    let mut nodes = vec![survivor];
    let others: Vec<&str> = NAMES
        .into_iter()
        .filter(|one| *one != nodes[0].name)
        .collect();
    for other in others {
        // The Primary that was has its disk, with what is lost on it: it refuses to go on with that.
        if other == primary {
            let refused = place.calm_member(other).refused().await.to_string();
            let why = "the chain differs from a record that was committed here";
            assert!(refused.contains(why), "{refused}");
            std::fs::remove_dir_all(place.disk(other)).unwrap();
        }
        nodes.push(place.calm_member(other).start().await);
    }
    for node in &nodes {
        node.healthy().await;
    }
    until_voters(&place, NAMES.to_vec()).await;
    some_load(&fresh, &nodes[1]).await;
    fresh.judge(&only_after(&nodes[2], end).await);
    stop(nodes).await;
    is_one_chain(&place, Revision(1)).await;
}

/// The history after the end of the chain as it was.
async fn only_after(node: &Running, end: u64) -> Vec<super::load::Written> {
    history(node, i64::try_from(end).unwrap() + 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_nothing_to_force_while_a_primary_is_at_work_or_no_voters_are_named() {
    let place = Place::new();
    let one = place.calm_member("one").start().await;
    one.healthy().await;
    let (_, ended) = force_elect(&place, true).await;
    let refused = ended.unwrap_err().to_string();
    assert!(refused.contains("names no voters"), "{refused}");
    let two = place.calm_member("two").start().await;
    two.healthy().await;
    until_voters(&place, vec!["one", "two"]).await;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&ledger, &[one.clients], 2);
    until("there is some load", || async { ledger.done() >= 5 }).await;
    let before = register(&place).await;
    let (_, ended) = force_elect(&place, true).await;
    let refused = ended.unwrap_err().to_string();
    assert!(refused.contains("is at work"), "{refused}");
    assert_eq!(register(&place).await, before);
    load.finish().await;
    stop(vec![one, two]).await;
}
