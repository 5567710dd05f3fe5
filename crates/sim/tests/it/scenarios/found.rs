//! Faults that storms, or those who wrote them, have found in the rules.

use rules::primary::Tenure;
use rules::register::Phase;
use rules::step::Input;
use sim::cluster::Cluster;
use sim::scene::{Scene, chain_reads_of, chunk_of, disk_of, lock_of_others, register_reads_of};
use sim::world::Happening;

use super::{
    A, B, C, ELECTOR, P, another_is_active, another_writes_and_the_old_one_reads,
    heard_by_its_elector_only, on_the_bucket, on_the_own_disk_alone,
};

#[test]
fn a_primary_that_closes_leaves_nothing_outside_the_bucket() {
    let mut scene = Scene::running(Cluster::quiet(3));
    scene.cut(P, B);
    let late = scene.hold(chunk_of(P));
    scene.write_and_wait(P);
    scene.pause(A);
    scene.close(P);
    scene.run(30_000);
    scene.drop_held(late);
    scene.ends_well();
}

/// The lease is switched off in a rolling change. The Elector that granted the Primary's lease gives up the lock; the
/// next one, which has no lease any more, claims an epoch, and gives up, too; the third finds no lease in the register.
#[test]
fn a_lease_that_is_switched_off_is_waited_for() {
    let mut scene = heard_by_its_elector_only(Cluster {
        lease: [2_000, 0],
        changes_at: 10_000,
        ..Cluster::quiet(5)
    });
    // They happen to look at the register at the moment they become Elector.
    let looks = [A, B].map(|index| scene.hold(register_reads_of(index)));
    scene.run(3_000);
    let others = scene.hold(lock_of_others(A));
    scene.break_disk(ELECTOR);
    scene.until("the second is elector", |scene| scene.is_elector(A));
    scene.let_go(looks[0]);
    scene.until("the second claims", |scene| {
        scene.stands_at(2, Phase::Claimed)
    });
    scene.drop_held(others);
    let others = scene.hold(lock_of_others(B));
    scene.break_disk(A);
    scene.until("the third is elector", |scene| scene.is_elector(B));
    scene.let_go(looks[1]);
    scene.drop_held(others);
    scene.mend_disk(ELECTOR);
    scene.mend_disk(A);
    another_writes_and_the_old_one_reads(&mut scene);
    scene.ends_well();
}

/// An Elector whose disk fails gives up the lock. Its disk works again before it hears that the lock is gone; it must
/// not grant another lease in between.
#[test]
fn an_elector_that_has_begun_to_give_up_grants_nothing() {
    let mut scene = heard_by_its_elector_only(Cluster::quiet(5));
    let look = scene.hold(register_reads_of(A));
    scene.run(3_000);
    let others = scene.hold(lock_of_others(A));
    let answer =
        scene.hold(|index, what| index == ELECTOR && matches!(what, Happening::LockSettles(..)));
    scene.break_disk(ELECTOR);
    scene.run(100);
    scene.mend_disk(ELECTOR);
    for index in [A, B, C] {
        scene.part(ELECTOR, index);
    }
    scene.until("the second is elector", |scene| scene.is_elector(A));
    scene.let_go(look);
    another_writes_and_the_old_one_reads(&mut scene);
    scene.drop_held(others);
    scene.drop_held(answer);
    scene.ends_well();
}

/// Storm. A looks at an empty slot as a Replica does, without a list behind it, and is named before the answer comes.
/// The slot was cleaned up long ago: A, which has heard nothing of what came after, must not take it for the chain's end.
#[test]
fn a_look_at_the_chain_belongs_to_its_tenure() {
    let mut scene = Scene::with_elector(on_the_bucket(3));
    let elector = B;
    // A has once seen the chain's end.
    scene.cut(P, A);
    let sees = |scene: &Scene| scene.node(A).is_some_and(rules::node::Node::is_caught_up);
    scene.until("A has seen the chain's end", sees);
    scene.heal(P, A);
    scene.until("A follows again", |scene| scene.follows(A));
    scene.write_and_wait(P);
    let others = scene.hold(chain_reads_of(elector));
    scene.cut(P, elector);
    scene.run(1_200);
    scene.write_and_wait(P);
    scene.run(100);
    scene.cut(P, A);
    scene.snapshot_every(4);
    for _ in 0..20 {
        scene.write_and_wait(P);
    }
    let answer = scene
        .hold(|index, what| index == A && matches!(what, Happening::Input(Input::SlotRead(..))));
    scene.until("A looks", |scene| scene.held(answer) > 0);
    assert!(!scene.slots().contains(&4), "{:?}", scene.slots());
    scene.lose(P);
    scene.until("A is named", |scene| {
        matches!(scene.tenure(A), Tenure::Reading(_))
    });
    scene.let_go(answer);
    scene.drop_held(others);
    scene.until("somebody is active", |scene| {
        scene.is_active(A) || scene.is_active(elector)
    });
    scene.ends_well();
}

/// Storm. P's disk fails while a cut is on its way to it, and works again without it: what it holds there is not what
/// P's log holds.
#[test]
fn a_cut_that_was_lost_with_the_disk_is_asked_for_again() {
    let mut scene = Scene::running(Cluster::quiet(3));
    let (chunks, _) = on_the_own_disk_alone(&mut scene, &[A, B]);
    scene.pause(P);
    let next = another_is_active(&mut scene, &[A, B]);
    scene.drop_held(chunks);
    for other in [A, B] {
        scene.heal(P, other);
    }
    let slow = scene.hold(disk_of(P));
    scene.wake(P);
    scene.until("P follows", |scene| scene.follows(P));
    scene.write_and_wait(next);
    scene.run(100);
    scene.break_disk(P);
    scene.let_go(slow);
    scene.run(100);
    scene.mend_disk(P);
    scene.until("P shows what the others do", |scene| {
        scene.shown(P) == scene.shown(next)
    });
    // Its disk knows that this is in the chain, so that it is not compared again.
    scene.run(3_000);
    scene.write_and_wait(next);
    scene.run(1_000);
    scene.kill(P);
    scene.start(P);
    scene.ends_well();
}

/// Storm. The same, but what the disk was doing when it failed had come to pass.
#[test]
fn a_cut_that_came_to_pass_is_not_asked_for_again() {
    let mut scene = Scene::running(on_the_bucket(2));
    let (chunks, _) = on_the_own_disk_alone(&mut scene, &[A]);
    scene.pause(P);
    scene.until("A is active", |scene| scene.is_active(A));
    scene.drop_held(chunks);
    scene.heal(P, A);
    scene.cut(A, P);
    let slow = scene.hold(disk_of(P));
    scene.wake(P);
    scene.until("P has read the chain", |scene| {
        scene
            .node(P)
            .is_some_and(|node| node.log().epoch_at(node.log().last).0 == 2)
    });
    scene.break_disk_after_all(P);
    scene.let_go(slow);
    scene.run(100);
    scene.mend_disk(P);
    scene.write_and_wait(A);
    scene.run(2_000);
    assert!(scene.complaints().is_empty(), "{:?}", scene.complaints());
    scene.ends_well();
}

/// The Primary dies. Two Nodes hold the same; the one that started last does not reach the bucket.
fn one_of_two_equals_does_not_reach_the_bucket(cluster: Cluster) {
    let mut scene = Scene::with_elector(cluster);
    scene.write_and_wait(P);
    scene.run(3_000);
    scene.cut_bucket(A);
    scene.run(3_000);
    scene.lose(P);
    scene.run(30_000);
    assert!(scene.is_active(B), "{:?}", scene.register());
}

#[test]
fn of_equals_one_that_reaches_the_bucket_is_named() {
    one_of_two_equals_does_not_reach_the_bucket(Cluster::quiet(3));
}

#[test]
fn without_voters_one_that_reaches_the_bucket_is_named() {
    one_of_two_equals_does_not_reach_the_bucket(on_the_bucket(3));
}

/// The bucket is away, and the Primary commits by its voters; for a while `silence` parts them.
fn a_silence_while_the_bucket_is_away(silence: impl FnOnce(&mut Scene)) {
    let mut scene = Scene::running(Cluster::quiet(3));
    scene.write_and_wait(P);
    scene.run(5_000);
    for index in [P, A, B] {
        scene.cut_bucket(index);
    }
    scene.run(10_000);
    scene.write_and_wait(P);
    silence(&mut scene);
    scene.run(10_000);
    scene.write_and_wait(P);
}

#[test]
fn no_voter_is_given_up_after_a_pause_while_the_bucket_is_away() {
    a_silence_while_the_bucket_is_away(|scene| {
        scene.pause(P);
        scene.run(3_000);
        scene.wake(P);
    });
}

#[test]
fn no_voter_is_given_up_after_a_partition_while_the_bucket_is_away() {
    a_silence_while_the_bucket_is_away(|scene| {
        for index in [A, B] {
            scene.part(P, index);
        }
        scene.run(2_600);
        for index in [A, B] {
            scene.heal(P, index);
            scene.heal(index, P);
        }
    });
}
