//! Voters: whose disks make a write true, and how that changes.

use rules::primary::Tenure;
use rules::register::Phase;
use rules::revision::Epoch;
use sim::clients::{Op, Told};
use sim::cluster::Cluster;
use sim::scene::{Scene, chunk_of, register_of};

use super::{A, B, P, b_takes_over_without_voters};

/// A write that P and A hold, and B does not; the bucket has none of it. It is acknowledged.
fn held_by_two(cluster: Cluster) -> Scene {
    let mut scene = Scene::running(cluster);
    for index in 2..cluster.nodes {
        scene.cut(P, index);
    }
    let chunks = scene.hold(chunk_of(P));
    scene.write_and_wait(P);
    scene.kill(P);
    scene.drop_held(chunks);
    scene
}

fn is_open(scene: &Scene, write: Op) -> bool {
    !matches!(scene.told(write), Some(Told::Done(_)))
}

/// H6: nobody answers P. Its own disk is one voter, and not two.
#[test]
fn h6_the_own_disk_is_counted_once() {
    let mut scene = Scene::running(Cluster::quiet(3));
    let chunks = scene.hold(chunk_of(P));
    scene.part(P, A);
    scene.part(P, B);
    let write = scene.write(P);
    scene.run(1_500);
    assert!(is_open(&scene, write), "{:?}", scene.told(write));
    scene.drop_held(chunks);
    scene.ends_well();
}

/// H8: P misses its voters, and its swap to none is on its way. A comes back meanwhile. What it holds from then on must
/// not be acknowledged: when the swap has landed, nobody asks A any more.
#[test]
fn h8_the_gate_is_shut_while_the_voters_change() {
    let mut scene = Scene::running(Cluster::quiet(3));
    let swap = scene.hold(register_of(P, Phase::Active));
    scene.pause(A);
    scene.pause(B);
    scene.until("P wants no voters", |scene| scene.held(swap) > 0);
    scene.wake(A);
    scene.until("A follows again", |scene| scene.follows(A));
    let chunks = scene.hold(chunk_of(P));
    let write = scene.write(P);
    scene.run(1_000);
    assert!(is_open(&scene, write), "{:?}", scene.told(write));
    scene.let_go(swap);
    b_takes_over_without_voters(scene, chunks);
}

/// H13: A holds what P acknowledged, and comes back with its disk as it was before. Its number of starts tells: it is
/// another disk, which has no vote.
#[test]
fn h13_a_disk_that_was_rolled_back_has_no_vote() {
    let mut scene = Scene::running(Cluster::quiet(3));
    scene.copy_disk(A);
    scene.kill(A);
    scene.start(A);
    scene.until("A follows again", |scene| scene.follows(A));
    scene.cut(P, B);
    let chunks = scene.hold(chunk_of(P));
    scene.write_and_wait(P);
    scene.kill(A);
    scene.restore_disk(A);
    scene.kill(P);
    scene.drop_held(chunks);
    scene.start(A);
    scene.run(60_000);
    assert!(!scene.is_active(A) && !scene.is_active(B), "P alone knows");
    scene.ends_well();
}

/// H13: the same with a copy that cannot be told by its number of starts, because it is of this very life. Its Primary
/// hears a Hello below a Receipt of the same disk, and counts it no more.
#[test]
fn h13_a_disk_below_its_receipt_is_not_counted() {
    let mut scene = Scene::running(Cluster::quiet(3));
    scene.copy_disk(A);
    scene.cut(P, B);
    scene.pause(B);
    scene.write_and_wait(P);
    scene.kill(A);
    scene.restore_disk_unnoticed(A);
    scene.start(A);
    scene.until("P has noticed", |scene| !scene.complaints().is_empty());
    let chunks = scene.hold(chunk_of(P));
    let write = scene.write(P);
    scene.run(1_000);
    assert!(is_open(&scene, write), "{:?}", scene.told(write));
    scene.drop_held(chunks);
    scene.until("A votes no more", |scene| !scene.votes(A));
    scene.kill_with_disk(A);
    scene.ends_well();
}

/// Ancestor L1: A holds what P acknowledged. B is younger, and as healthy; it is not named.
#[test]
fn l1_the_best_log_is_named() {
    let mut scene = held_by_two(Cluster::quiet(3));
    scene.until("somebody is active", |scene| {
        scene.is_active(A) || scene.is_active(B)
    });
    assert!(scene.is_active(A));
    scene.ends_well();
}

/// Ancestor L2: both that hold a write die. The third is never enough, however long it waits.
#[test]
fn l2_a_dead_voter_stays_a_voter() {
    let mut scene = held_by_two(Cluster::quiet(3));
    scene.kill(A);
    scene.run(600_000);
    assert!(!scene.is_active(B));
    assert_eq!(scene.register().voters.len(), 3);
    scene.ends_well();
}

/// Ancestor L3: two Nodes join while a write is held by P and A alone. Before they vote, the bucket has it.
#[test]
fn l3_voters_change_when_the_bucket_has_everything() {
    let mut scene = Scene::running(Cluster::quiet(3));
    scene.cut(P, B);
    let chunks = scene.hold(chunk_of(P));
    scene.write_and_wait(P);
    let joined = [scene.join(), scene.join()];
    // They are sent nothing of it: they know the chain.
    for index in joined {
        scene.start(index);
    }
    scene.run(1_500);
    assert_eq!(scene.register().voters.len(), 3, "P waits for the bucket");
    scene.kill(P);
    scene.drop_held(chunks);
    scene.pause(A);
    scene.run(60_000);
    assert!(!scene.is_active(B) && joined.iter().all(|index| !scene.is_active(*index)));
    scene.ends_well();
}

/// Section 7: two of five are left. They are not made the new voters: the next loss would be worse. The bucket commits.
#[test]
fn fewer_than_a_quorum_are_no_new_voters() {
    let mut scene = Scene::running(Cluster::quiet(5));
    for index in [2, 3, 4] {
        scene.pause(index);
    }
    scene.until("the voters have changed", |scene| {
        scene.register().voters.len() != 5
    });
    assert!(scene.register().voters.is_empty(), "{:?}", scene.register());
    scene.write_and_wait(P);
    scene.ends_well();
}

/// Ancestor L9: the configured quorum changes in a rolling change. An Elector that already has the new one asks for what
/// the register says, which the writes were made by.
#[test]
fn l9_the_quorum_is_what_the_register_says() {
    let mut scene = Scene::running(Cluster {
        quorum: [-1, 4],
        changes_at: 10_000,
        ..Cluster::quiet(5)
    });
    scene.run(10_000);
    for index in [3, 4] {
        scene.kill(index);
        scene.start(index);
    }
    scene.until("they follow", |scene| scene.follows(3) && scene.follows(4));
    // P, A and B hold a write. 3 and 4, who have the new quorum, do not.
    scene.cut(P, 3);
    scene.cut(P, 4);
    let chunks = scene.hold(chunk_of(P));
    scene.write_and_wait(P);
    scene.kill(P);
    scene.drop_held(chunks);
    scene.pause(A);
    scene.pause(B);
    scene.run(30_000);
    assert!(
        !scene.is_active(3) && !scene.is_active(4),
        "three promises are needed"
    );
    scene.ends_well();
}

/// Section 7: a new quorum takes effect by a swap, when everything is in the bucket.
#[test]
fn a_new_quorum_comes_with_the_next_primary() {
    let mut scene = Scene::running(Cluster {
        quorum: [-1, 2],
        changes_at: 10_000,
        ..Cluster::quiet(3)
    });
    scene.run(10_000);
    scene.close(P);
    scene.until("another is active", |scene| {
        scene.is_active(A) || scene.is_active(B)
    });
    scene.start(P);
    scene.run(10_000);
    assert_eq!(
        scene.register().quorum,
        -1,
        "who is Primary was not started anew"
    );
    for index in [A, B] {
        scene.close(index);
        scene.run(3_000);
        scene.start(index);
        scene.until("everybody is there", |scene| {
            let count = [P, A, B]
                .iter()
                .filter(|index| scene.follows(**index))
                .count();
            count == 2
        });
    }
    scene.until("the quorum is the new one", |scene| {
        scene.register().quorum == 2
    });
    scene.ends_well();
}

/// Ancestor L10: A holds what P acknowledged. Its machine is replaced, under the same name, by one with an empty disk.
#[test]
fn l10_an_empty_disk_under_an_old_name_has_no_vote() {
    let mut scene = held_by_two(Cluster::quiet(3));
    scene.kill_with_disk(A);
    scene.start(A);
    scene.run(60_000);
    assert!(!scene.is_active(A) && !scene.is_active(B), "P alone knows");
    assert_eq!(scene.tenure(A), Tenure::None);
    scene.heal(P, B);
    scene.start(P);
    scene.until("somebody is active", |scene| {
        (0..3).any(|index| scene.is_active(index))
    });
    assert!(scene.register().epoch > Epoch(1));
    scene.ends_well();
}
