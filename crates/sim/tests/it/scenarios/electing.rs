//! Electing: what would block a cluster for ever, and does not.

use rules::message::Message;
use rules::primary::Tenure;
use rules::register::Phase;
use rules::revision::Epoch;
use sim::cluster::Cluster;
use sim::scene::{Scene, lock_of_others, message_to, register_of};

use super::{A, B, P, another_is_active, on_the_bucket};

fn somebody_is_active(scene: &Scene) -> bool {
    (0..5).any(|index| scene.knows(index) && scene.is_active(index))
}

/// Ancestor B1: the Elector dies. The Primary stays what it is, and nobody has to be started anew.
#[test]
fn b1_an_elector_that_dies_costs_no_tenure() {
    let mut scene = Scene::with_elector(Cluster::quiet(4));
    let elector = 3;
    scene.lose(elector);
    for _ in 0..20 {
        scene.write_and_wait(P);
        scene.run(1_000);
    }
    assert!(scene.is_elector(P) || scene.is_elector(A) || scene.is_elector(B));
    assert_eq!(scene.tenure(P), Tenure::Active(Epoch(1)));
    scene.ends_well();
}

/// The same without voters, where nobody can be asked whether the Primary lives.
#[test]
fn b1_without_voters_the_next_elector_waits_for_a_sign() {
    let mut scene = Scene::with_elector(on_the_bucket(4));
    let elector = 3;
    let others = scene.hold(lock_of_others(A));
    scene.close(elector);
    scene.until("A is elector", |scene| scene.is_elector(A));
    scene.drop_held(others);
    scene.run(20_000);
    assert_eq!(scene.tenure(P), Tenure::Active(Epoch(1)));
    scene.ends_well();
}

/// Ancestor B2 and B4: the Elector gives up the lock. The next one is heard of at once, by everybody.
#[test]
fn b2_a_new_elector_announces_itself() {
    let mut scene = Scene::with_elector(Cluster::quiet(4));
    let elector = 3;
    scene.close(elector);
    let by = scene.now() + 1_000;
    scene.until("another is elector", |scene| {
        [P, A, B].iter().any(|index| scene.is_elector(*index))
    });
    let heard = |scene: &Scene| scene.has_lease(P) && scene.follows(A) && scene.follows(B);
    scene.until("P has its grant", heard);
    assert!(scene.now() < by, "it took {} ms too long", scene.now() - by);
    scene.ends_well();
}

/// Ancestor B3: the Elector, which is the Primary, stands still for a while, and not long enough to lose its lock.
#[test]
fn b3_an_elector_that_stood_still_goes_on() {
    let mut scene = Scene::running(Cluster::quiet(3));
    scene.pause(P);
    scene.run(3_500);
    scene.wake(P);
    scene.write_and_wait(P);
    assert_eq!(scene.tenure(P), Tenure::Active(Epoch(1)));
    scene.ends_well();
}

/// The same where it is not the Primary: it has heard nobody for a while, and asks before it believes that.
#[test]
fn b3_an_elector_that_stood_still_asks_first() {
    let mut scene = Scene::with_elector(Cluster::quiet(4));
    let elector = 3;
    // What was said meanwhile is lost, too.
    let words = scene.hold(message_to(elector, |_| true));
    scene.pause(elector);
    scene.run(3_500);
    scene.wake(elector);
    scene.run(50);
    scene.drop_held(words);
    scene.run(5_000);
    scene.write_and_wait(P);
    assert_eq!(scene.tenure(P), Tenure::Active(Epoch(1)));
    scene.ends_well();
}

/// Ancestor B5: whoever is named is not told. It finds its name by itself.
#[test]
fn b5_a_primary_that_is_not_told_finds_its_name() {
    let mut scene = Scene::with_elector(Cluster::quiet(3));
    scene.kill(P);
    let pushes = scene.hold(message_to(A, |message| {
        matches!(message, Message::State(_))
    }));
    scene.until("somebody is active", somebody_is_active);
    assert!(scene.is_active(A));
    scene.drop_held(pushes);
    scene.ends_well();
}

/// Ancestor B6: a Primary that closes is replaced at once, without anybody's promise.
#[test]
fn b6_a_primary_that_closes_is_replaced_at_once() {
    let mut scene = Scene::with_elector(Cluster::quiet(3));
    let began = scene.now();
    scene.close(P);
    scene.until("another is active", |scene| {
        scene.is_active(A) || scene.is_active(B)
    });
    assert!(
        scene.now() < began + 1_500,
        "it took {} ms",
        scene.now() - began
    );
    scene.ends_well();
}

/// Ancestor B9: A was away, and the chain has moved on beyond what is left of it. Named, it does not take the empty slot
/// for the chain's end: it starts again, from a Snapshot.
#[test]
fn b9_who_fell_behind_the_snapshots_begins_with_one() {
    let mut scene = Scene::running(on_the_bucket(2));
    scene.cut(P, A);
    scene.pause(A);
    scene.snapshot_every(5);
    for _ in 0..30 {
        scene.write_and_wait(P);
    }
    scene.run(2_000);
    assert!(!scene.slots().contains(&2), "{:?}", scene.slots());
    scene.lose(P);
    scene.wake(A);
    scene.until("A is active", |scene| scene.is_active(A));
    assert!(scene.disk(A).len() > 30);
    scene.ends_well();
}

/// Ancestor B10: the Primary dies together with the Elector that named it, and never comes back.
#[test]
fn b10_a_primary_that_nobody_knows_any_more_is_replaced() {
    let mut scene = Scene::running(Cluster::quiet(5));
    scene.lose(P);
    scene.until("somebody is active", somebody_is_active);
    scene.ends_well();
}

/// Ancestor B11: a Primary that slept wakes beside the one that replaced it. The Elector goes by the register.
#[test]
fn b11_two_that_call_themselves_primary_do_not_block_an_elector() {
    let mut scene = Scene::with_elector(on_the_bucket(3));
    scene.pause(P);
    let next = another_is_active(&mut scene, &[A, B]);
    scene.wake(P);
    scene.run(10);
    scene.kill(next);
    scene.until("somebody is active", |scene| {
        scene.register().epoch > Epoch(2) && somebody_is_active(scene)
    });
    scene.ends_well();
}

/// Ancestor B12: with a static quorum of two others, one dead Node blocks no election: whoever is left holds everything.
#[test]
fn b12_a_static_quorum_survives_a_dead_node() {
    let mut scene = Scene::running(Cluster {
        quorum: [2; 2],
        ..Cluster::quiet(3)
    });
    scene.write_and_wait(P);
    scene.lose(P);
    scene.lose(A);
    scene.until("B is active", |scene| scene.is_active(B));
    scene.ends_well();
}

/// A claim whose Elector dies before it named anybody is claimed again; so is the epoch of a Primary that never began.
#[test]
fn an_epoch_that_nobody_opens_is_claimed_again() {
    for phase in [Phase::Starting, Phase::Active] {
        let mut scene = Scene::with_elector(Cluster::quiet(3));
        scene.kill(P);
        let hold = scene.hold(move |index, what| {
            [A, B]
                .iter()
                .any(|node| register_of(*node, phase)(index, what))
        });
        scene.until("the epoch has come so far", |scene| scene.held(hold) > 0);
        scene.kill(B);
        scene.drop_held(hold);
        scene.start(B);
        scene.start(P);
        scene.until("somebody is active", somebody_is_active);
        scene.ends_well();
    }
}
