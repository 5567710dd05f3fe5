//! Tenures: one name per epoch, one process per tenure, and no swap is taken for lost before it is.

use rules::message::Message;
use rules::register::Phase;
use rules::revision::Epoch;
use sim::clients::Told;
use sim::cluster::Cluster;
use sim::scene::{Scene, chunk_of, disk_of, message_to, register_of, register_reads_of};
use sim::world::Happening;

use super::{A, B, P, b_is_the_youngest, b_takes_over_without_voters, on_the_bucket};

/// H2b: two Electors, one after the other, and the first one's swap that names a Primary lands late. One epoch has one
/// name; the second Elector has claimed the next.
#[test]
fn h2b_an_epoch_that_was_claimed_is_not_claimed_again() {
    let mut scene = Scene::with_elector(Cluster::quiet(4));
    let elector = 3;
    scene.kill(P);
    let names = scene.hold(register_of(elector, Phase::Starting));
    scene.until("the elector is about to name", |scene| {
        scene.held(names) > 0
    });
    scene.pause(elector);
    scene.until(
        "the next epoch is claimed, and somebody active in it",
        |scene| scene.register().epoch > Epoch(2) && (scene.is_active(A) || scene.is_active(B)),
    );
    scene.let_go(names);
    scene.wake(elector);
    scene.run(3_000);
    scene.ends_well();
}

/// H3: P wants no voters any more, and hears nothing of its swap. It must not acknowledge by quorum before it knows: the
/// swap lands late, and then anybody may take over without promises.
#[test]
fn h3_a_swap_without_an_answer_is_not_lost() {
    let mut scene = Scene::running(Cluster::quiet(3));
    let chunks = scene.hold(chunk_of(P));
    let swap = scene.hold(register_of(P, Phase::Active));
    scene.pause(A);
    scene.pause(B);
    scene.until("P wants no voters", |scene| scene.held(swap) > 1);
    scene.wake(A);
    scene.until("A follows again", |scene| scene.follows(A));
    let write = scene.write(P);
    scene.run(1_000);
    assert!(
        !scene.is_done(write),
        "the gate is shut: {:?}",
        scene.told(write)
    );
    scene.let_go(swap);
    b_takes_over_without_voters(scene, chunks);
}

/// H4, and the ancestor's H7: P dies after it has sent Revision 2 to A, and starts again at once, with a disk that knows
/// nothing of it. It is another process: it must not assign another Revision 2 in the same epoch.
#[test]
fn h4_a_tenure_lives_in_one_process() {
    let mut scene = Scene::with_elector(on_the_bucket(3));
    let chunks = scene.hold(chunk_of(P));
    let disk = scene.hold(disk_of(P));
    scene.cut(P, B);
    let write = scene.write(P);
    scene.until("A has it", |scene| scene.disk(A).len() == 2);
    scene.kill(P);
    scene.drop_held(disk);
    scene.drop_held(chunks);
    scene.start_and_wait(P);
    scene.run(300);
    let again = scene.write(P);
    scene.run(3_000);
    assert!(matches!(scene.told(write), Some(Told::Unclear)));
    assert!(!scene.is_done(again), "{:?}", scene.told(again));
    scene.ends_well();
}

/// H5: P answers the Elector's Prepare, as a voter, and A, which has not been asked, goes on following it. What P's own
/// disk and A hold from then on must not count: B and P's promise are enough to name B.
#[test]
fn h5_a_primary_that_promises_counts_no_more() {
    let mut scene = b_is_the_youngest();
    let chunks = scene.hold(chunk_of(P));
    // P's clock is slow: it misses nobody.
    scene.set_clock(P, 300);
    scene.cut(P, A);
    scene.cut(P, B);
    let claim = scene.hold(register_of(B, Phase::Claimed));
    scene.until("B is about to claim", |scene| scene.held(claim) > 0);
    scene.heal(P, A);
    scene.until("A follows again", |scene| scene.follows(A));
    scene.cut(B, A);
    // B hears P's promise, and nothing of its log.
    let records = scene.hold(message_to(B, |message| {
        matches!(message, Message::Records(_))
    }));
    scene.heal(P, B);
    scene.let_go(claim);
    scene.until("P has promised", |scene| scene.promised(P) == Epoch(2));
    let write = scene.write(P);
    scene.run(100);
    assert!(!scene.is_done(write), "{:?}", scene.told(write));
    scene.drop_held(records);
    scene.drop_held(chunks);
    scene.until("B is active", |scene| scene.is_active(B));
    scene.ends_well();
}

/// Section 4: A is asked for its promise, and dies before its disk holds it. It must not have answered: it comes back
/// without the promise, hears an old word of P, and follows it again.
#[test]
fn a_promise_is_on_disk_before_it_is_given() {
    let mut scene = b_is_the_youngest();
    let old_word = scene.hold(message_to(A, |message| match message {
        Message::State(state) => {
            let register = state.register.as_ref();
            register.is_some_and(|register| register.phase == Phase::Active)
        }
        _ => false,
    }));
    scene.run(1_000);
    let chunks = scene.hold(chunk_of(P));
    let registers = [P, A].map(|index| scene.hold(register_reads_of(index)));
    scene.set_clock(P, 300);
    scene.part(P, B);
    scene.cut(P, A);
    let claim = scene.hold(register_of(B, Phase::Claimed));
    scene.until("B is about to claim", |scene| scene.held(claim) > 0);
    scene.heal(P, A);
    let slow = scene.hold(disk_of(A));
    let name = scene.hold(register_of(B, Phase::Starting));
    scene.let_go(claim);
    scene.until("A was asked", |scene| scene.held(slow) > 0);
    scene.run(10);
    scene.cut(B, A);
    scene.kill(A);
    scene.drop_held(slow);
    scene.start_and_wait(A);
    scene.let_go(old_word);
    scene.until("A follows P again", |scene| scene.follows(A));
    scene.write_and_wait(P);
    scene.let_go(name);
    scene.run(3_000);
    for register in registers {
        scene.drop_held(register);
    }
    scene.drop_held(chunks);
    scene.ends_well();
}

/// Ancestor H4: the same the other way round. A has promised, and P, which has heard nothing, goes on sending it what it
/// assigns. A's Receipt would make a quorum with P that those who promised do not meet.
#[test]
fn ancestor_h4_a_voter_that_promised_receipts_nothing_older() {
    let mut scene = b_is_the_youngest();
    let chunks = scene.hold(chunk_of(P));
    let register = scene.hold(register_reads_of(P));
    scene.set_clock(P, 300);
    scene.part(P, B);
    scene.cut(P, A);
    let claim = scene.hold(register_of(B, Phase::Claimed));
    scene.until("B is about to claim", |scene| scene.held(claim) > 0);
    scene.heal(P, A);
    scene.until("A follows again", |scene| scene.follows(A));
    let name = scene.hold(register_of(B, Phase::Starting));
    // A hears the question, and nothing else of the new epoch.
    let words = scene.hold(message_to(A, |message| {
        matches!(message, Message::State(_))
    }));
    let look = scene.hold(register_reads_of(A));
    scene.let_go(claim);
    scene.until("A has promised", |scene| scene.promised(A) == Epoch(2));
    scene.run(20);
    let write = scene.write(P);
    scene.run(100);
    assert!(!scene.is_done(write), "{:?}", scene.told(write));
    scene.let_go(name);
    scene.until("B is active", |scene| scene.is_active(B));
    for held in [register, chunks, words, look] {
        scene.drop_held(held);
    }
    scene.ends_well();
}

/// Ancestor H3: P is superseded and does not know. A Replica that does not know either passes a write on to it.
#[test]
fn ancestor_h3_a_superseded_primary_executes_nothing() {
    let mut scene = Scene::with_elector(on_the_bucket(4));
    let registers = [P, A].map(|index| scene.hold(register_reads_of(index)));
    for one in [P, A] {
        for other in [B, 3] {
            scene.part(one, other);
        }
    }
    scene.until("another is active", |scene| {
        scene.is_active(B) || scene.is_active(3)
    });
    let next = if scene.is_active(B) { B } else { 3 };
    scene.write_and_wait(next);
    assert!(scene.follows(A), "A knows nothing");
    let write = scene.write(A);
    scene.run(3_000);
    assert!(!scene.is_done(write), "{:?}", scene.told(write));
    for register in registers {
        scene.drop_held(register);
    }
    scene.ends_well();
}

/// Ancestor H5: two Electors act at once, because the clock of one is slow. Each epoch is still claimed by one swap.
#[test]
fn ancestor_h5_two_electors_at_once_are_safe() {
    let mut scene = Scene::with_elector(Cluster::quiet(5));
    let elector = 4;
    // It renews its lock and hears nothing of that: the lock is another one than it knows.
    scene.set_clock(elector, 500);
    let answers = scene.hold(move |index, what| {
        index == elector && matches!(what, Happening::LockLands(..) | Happening::LockSettles(..))
    });
    scene.kill(P);
    let claims = scene.hold(register_of(elector, Phase::Claimed));
    scene.until("two act", |scene| {
        scene.is_elector(elector) && (1..4).any(|index| scene.is_elector(index))
    });
    scene.let_go(claims);
    scene.until("somebody is active", |scene| {
        (1..5).any(|index| scene.is_active(index))
    });
    scene.run(3_000);
    scene.drop_held(answers);
    scene.ends_well();
}

/// H12: a single Node comes back with an empty disk. It takes over as soon as the lock of its former self counts as left.
#[test]
fn h12_a_single_node_needs_nobodys_promise() {
    let mut scene = Scene::running(Cluster::quiet(1));
    scene.write_and_wait(P);
    scene.kill_with_disk(P);
    let died = scene.now();
    scene.start(P);
    scene.until("it is active", |scene| scene.is_active(P));
    assert!(
        scene.now() < died + 10_000,
        "it took {} ms",
        scene.now() - died
    );
    assert!(scene.register().voters.is_empty());
    scene.ends_well();
}

/// H15: a Node has promised an epoch far ahead, whoever asked for it. The claims go above it.
#[test]
fn h15_a_node_with_a_high_epoch_does_not_block_elections() {
    let mut scene = Scene::running(Cluster::quiet(3));
    scene.pause(A);
    scene.kill(B);
    scene.promise_on_disk(B, 100);
    scene.kill(P);
    scene.start(B);
    scene.run(1_000);
    scene.wake(A);
    scene.until("somebody is active", |scene| {
        scene.is_active(A) || scene.is_active(B)
    });
    assert!(scene.register().epoch > Epoch(100));
    scene.ends_well();
}

/// H15: an Elector that reaches the bucket and no Node. The voters hear their Primary: it stays.
#[test]
fn h15_an_elector_that_sees_only_the_bucket_deposes_nobody() {
    let mut scene = Scene::with_elector(Cluster::quiet(4));
    let elector = 3;
    for index in [P, A, B] {
        scene.part(elector, index);
    }
    for _ in 0..30 {
        scene.write_and_wait(P);
        scene.run(1_000);
    }
    assert_eq!(scene.register().epoch, Epoch(1));
    scene.ends_well();
}
