//! Reads: what may be said of the newest state, and when.

use rules::message::Message;
use rules::primary::Tenure;
use rules::register::Phase;
use rules::revision::{Epoch, Revision};
use rules::step::Input;
use sim::clients::Told;
use sim::cluster::Cluster;
use sim::scene::{
    Held, Scene, chain_reads_of, chunk_of, lock_of_others, message_to, register_reads_of,
};
use sim::world::Happening;

use super::{
    A, B, ELECTOR, P, another_is_active, another_writes_and_the_old_one_reads,
    heard_by_its_elector_only, on_the_bucket, on_the_own_disk_alone,
};

/// H10: the Elector that granted P's lease gives up the lock, and the next one, whom the voters tell that they hear
/// nobody, claims at once. It names nobody until P's lease must have run out.
#[test]
fn h10_nobody_is_named_while_a_lease_may_run() {
    let mut scene = heard_by_its_elector_only(Cluster::quiet(5));
    // It happens to look at the register at the moment it becomes Elector.
    let look = scene.hold(register_reads_of(A));
    scene.run(3_000);
    let others = scene.hold(lock_of_others(A));
    scene.break_disk(ELECTOR);
    scene.until("the second is elector", |scene| scene.is_elector(A));
    scene.let_go(look);
    another_writes_and_the_old_one_reads(&mut scene);
    scene.drop_held(others);
    scene.mend_disk(ELECTOR);
    scene.ends_well();
}

/// P sleeps, and hears nothing of A, which becomes Elector and Primary, writes, and gives up the lock. P wakes and takes
/// it.
fn the_old_primary_takes_the_lock(scene: &mut Scene) {
    scene.part(P, A);
    scene.pause(P);
    scene.until("A is active", |scene| scene.is_active(A));
    the_next_one_gives_up_the_lock(scene);
    assert!(scene.is_active(P), "it knows nothing");
}

/// A writes, and gives up the lock; P wakes and takes it.
fn the_next_one_gives_up_the_lock(scene: &mut Scene) {
    scene.write_and_wait(A);
    let others = scene.hold(lock_of_others(P));
    scene.break_disk(A);
    scene.run(2_000);
    scene.wake(P);
    scene.until("P is elector", |scene| scene.is_elector(P));
    scene.drop_held(others);
}

/// P has the lock, and its `looks` at the register are held: it has no lease, and answers nothing before they are let go.
fn grants_itself_nothing(mut scene: Scene, looks: Held) {
    scene.read(P);
    scene.run(300);
    assert!(!scene.has_lease(P));
    scene.let_go(looks);
    scene.mend_disk(A);
    scene.ends_well();
}

/// Decision 0027: P, which was Elector, too, takes the lock again. What it knew of the register is from before: it
/// grants itself nothing by that.
#[test]
fn whoever_takes_the_lock_grants_nothing_before_it_has_looked() {
    let mut scene = Scene::running(on_the_bucket(2));
    scene.run(3_000);
    let looks = scene.hold(register_reads_of(P));
    the_old_primary_takes_the_lock(&mut scene);
    grants_itself_nothing(scene, looks);
}

/// Decision 0027: P had asked for the register before it slept. The answer comes when it has taken the lock, and is
/// older than that.
#[test]
fn a_look_from_before_the_lock_grants_nothing() {
    let mut scene = Scene::with_elector(on_the_bucket(2));
    let old = scene
        .hold(|index, what| index == P && matches!(what, Happening::Input(Input::RegisterRead(_))));
    scene.until("P has asked", |scene| scene.held(old) > 0);
    the_old_primary_takes_the_lock(&mut scene);
    let looks = scene.hold(register_reads_of(P));
    scene.let_go(old);
    scene.run(100);
    grants_itself_nothing(scene, looks);
}

/// Decision 0027: P, which is the Elector, too, has made the register Active, and the answer is on its way when P falls
/// asleep. It comes when P has taken the lock again, and is older than that.
#[test]
fn a_swap_from_before_the_lock_grants_nothing() {
    let mut scene = Scene::new(on_the_bucket(2));
    scene.start(P);
    scene.until("P has won its fence", |scene| {
        matches!(scene.tenure(P), Tenure::Activating(..))
    });
    let answer = scene.hold(|index, what| {
        index == P && matches!(what, Happening::Input(Input::RegisterSwapped(_)))
    });
    scene.until("the answer is on its way", |scene| scene.held(answer) > 0);
    assert!(scene.stands_at(1, Phase::Active));
    scene.part(P, A);
    scene.pause(P);
    scene.start(A);
    scene.until("A is active", |scene| scene.is_active(A));
    the_next_one_gives_up_the_lock(&mut scene);
    let looks = scene.hold(register_reads_of(P));
    scene.let_go(answer);
    scene.run(200);
    grants_itself_nothing(scene, looks);
}

/// H10: P has closed the register, and does not know it yet. The next Primary is named at once: P answers nothing any
/// more.
#[test]
fn h10_a_primary_that_closes_answers_nothing() {
    let mut scene = Scene::with_elector(on_the_bucket(3));
    scene.run(3_000);
    assert!(scene.has_lease(P));
    let answer =
        scene.hold(|index, what| index == P && matches!(what, Happening::RegisterSettles(..)));
    scene.close(P);
    scene.part(P, A);
    scene.part(P, B);
    let next = another_is_active(&mut scene, &[A, B]);
    scene.write_and_wait(next);
    scene.read(P);
    scene.run(50);
    scene.let_go(answer);
    scene.ends_well();
}

/// H11: a compare has seen what is not committed, and may never be. It is not answered before it is.
#[test]
fn h11_a_compare_answers_when_what_it_saw_is_committed() {
    let mut scene = Scene::running(on_the_bucket(2));
    let (chunks, _) = on_the_own_disk_alone(&mut scene, &[A]);
    let compare = scene.compare(P);
    scene.run(1_000);
    assert!(scene.told(compare).is_none(), "{:?}", scene.told(compare));
    scene.kill(P);
    scene.drop_held(chunks);
    scene.until("A is active", |scene| scene.is_active(A));
    scene.write_and_wait(A);
    scene.ends_well();
}

/// Ancestor S1: P was replaced and does not know. It has no lease, and the register does not name it any more.
#[test]
fn s1_a_primary_that_was_replaced_answers_nothing() {
    let mut scene = Scene::with_elector(Cluster {
        lease: [0, 0],
        ..on_the_bucket(3)
    });
    let register = scene.hold(register_reads_of(P));
    scene.part(P, A);
    scene.part(P, B);
    let next = another_is_active(&mut scene, &[A, B]);
    scene.write_and_wait(next);
    assert!(scene.is_active(P), "it knows nothing");
    let read = scene.read(P);
    scene.run(2_000);
    assert!(
        !matches!(scene.told(read), Some(Told::Read(_))),
        "{:?}",
        scene.told(read)
    );
    scene.drop_held(register);
    scene.ends_well();
}

/// Ancestor S1: what a client wrote through a Replica it can read there.
#[test]
fn s1_a_client_reads_its_own_write_on_the_node_it_wrote_to() {
    let mut scene = Scene::running(Cluster::quiet(3));
    // The Primary's answer comes before its log does.
    let log = scene.hold(message_to(A, |message| {
        matches!(message, Message::Records(_))
    }));
    let write = scene.write(A);
    scene.run(300);
    assert!(scene.told(write).is_none(), "{:?}", scene.told(write));
    scene.let_go(log);
    scene.until("the write is answered", |scene| scene.told(write).is_some());
    let at = scene.done(write).expect("the write is done");
    assert!(scene.shown(A) >= at);
    let read = scene.read(B);
    scene.until("the read is answered", |scene| scene.told(read).is_some());
    assert!(matches!(scene.told(read), Some(Told::Read(shown)) if *shown >= at));
    scene.ends_well();
}

/// Ancestor S2: A's disk holds what is not committed. It starts again, and hears no Primary: it shows none of that.
#[test]
fn s2_what_is_not_committed_is_not_shown_after_a_restart() {
    let mut scene = Scene::running(Cluster::quiet(5));
    let chunks = scene.hold(chunk_of(P));
    for index in [B, 3, 4] {
        scene.pause(index);
    }
    scene.write(P);
    scene.until("A's disk holds it", |scene| scene.disk(A).len() == 2);
    scene.kill(P);
    scene.drop_held(chunks);
    scene.kill(A);
    scene.start_and_wait(A);
    scene.run(5_000);
    scene.read_locally(A);
    assert!(scene.shown(A) <= Revision(1));
    scene.kill_with_disk(A);
    scene.ends_well();
}

/// Ancestor S3: the stream says that more is committed than A's disk holds yet. A shows what it holds.
#[test]
fn s3_committed_stays_at_what_the_own_disk_holds() {
    let mut scene = Scene::running(Cluster::quiet(3));
    let slow = scene.hold(|index, what| index == A && matches!(what, Happening::DiskDone));
    scene.write_and_wait(P);
    scene.run(1_000);
    assert_eq!(scene.shown(A), Revision(1));
    scene.let_go(slow);
    scene.until("A shows it", |scene| scene.shown(A) == Revision(2));
    scene.ends_well();
}

/// Decision 0014: a Chunk has landed, and P does not know. A, which hears nobody, reads the chain and shows it; whoever
/// then asks P waits until it knows.
#[test]
fn what_a_replica_shows_its_primary_does_not_deny() {
    let mut scene = Scene::running(on_the_bucket(2));
    let answer =
        scene.hold(|index, what| index == P && matches!(what, Happening::ChunkSettles(..)));
    scene.cut(P, A);
    scene.until("A hears nobody", |scene| !scene.follows(A));
    scene.run(2_000);
    scene.write(P);
    scene.until("A shows it", |scene| scene.shown(A) == Revision(2));
    let read = scene.read(P);
    scene.run(100);
    scene.let_go(answer);
    scene.until("the read is answered", |scene| scene.told(read).is_some());
    scene.ends_well();
}

/// Decision 0028: a compare comes to P, which was replaced and does not know: it has no lease, and asks the register. When
/// that question is at the bucket P is Primary again, in the same process. It says nothing of the tenure before.
#[test]
fn a_compare_belongs_to_its_tenure() {
    let mut scene = Scene::with_elector(on_the_bucket(2));
    let looks = scene.hold(register_reads_of(P));
    scene.part(P, A);
    scene.until("A is active", |scene| scene.is_active(A));
    scene.write_and_wait(A);
    assert_eq!(scene.tenure(P), Tenure::Active(Epoch(1)), "P knows nothing");
    let question = scene.hold(|index, what| index == P && matches!(what, Happening::Confirms));
    let compare = scene.compare(P);
    scene.until("P asks", |scene| scene.held(question) > 0);
    scene.let_go(looks);
    is_active_again(&mut scene, A);
    scene.let_go(question);
    scene.until("it is answered", |scene| scene.told(compare).is_some());
    let told = scene.told(compare);
    assert!(!matches!(told, Some(Told::Compared(_))), "{told:?}");
    scene.ends_well();
}

/// Decision 0028: the same for a read that A passes on, which has heard nothing either.
#[test]
fn a_question_belongs_to_its_tenure() {
    let mut scene = Scene::with_elector(on_the_bucket(3));
    let looks = [P, A].map(|index| scene.hold(register_reads_of(index)));
    for one in [P, A] {
        scene.part(one, B);
    }
    scene.until("B is active", |scene| scene.is_active(B));
    scene.write_and_wait(B);
    assert_eq!(scene.tenure(P), Tenure::Active(Epoch(1)), "P knows nothing");
    assert!(scene.follows(A), "A knows nothing");
    let question = scene.hold(|index, what| index == P && matches!(what, Happening::Confirms));
    let read = scene.read(A);
    scene.until("P asks", |scene| scene.held(question) > 0);
    // A shows nothing newer meanwhile.
    let chain = scene.hold(chain_reads_of(A));
    let log = scene.hold(message_to(A, |message| {
        matches!(message, Message::Records(_) | Message::Welcome { .. })
    }));
    scene.let_go(looks[0]);
    is_active_again(&mut scene, B);
    scene.let_go(question);
    scene.until("it is answered", |scene| scene.told(read).is_some());
    scene.drop_held(log);
    scene.drop_held(chain);
    scene.drop_held(looks[1]);
    scene.ends_well();
}

/// P learns that it was replaced, by `next`, which then closes: P is Primary again, without a restart.
fn is_active_again(scene: &mut Scene, next: usize) {
    scene.heal(P, next);
    scene.heal(next, P);
    scene.until("P has ended its tenure", |scene| {
        scene.tenure(P) == Tenure::None
    });
    scene.run(500);
    scene.close(next);
    scene.until("P is active again", |scene| {
        scene.tenure(P) == Tenure::Active(Epoch(3))
    });
}
