//! The chain: one key for all writers, and it wins over every log.

use rules::primary::Tenure;
use rules::register::Phase;
use rules::revision::Epoch;
use rules::step::Input;
use sim::cluster::Cluster;
use sim::scene::{Scene, chain_reads_of, chunk_of, register_of, register_reads_of};
use sim::world::Happening;

use super::{A, B, P, another_is_active, on_the_bucket, on_the_own_disk_alone};

/// H1: P's own disk alone holds Revision 2 of epoch 1. Epoch 2 takes the slot and never becomes active; epoch 3 does.
/// Compared by tables that know epochs 1 and 3 only, P would keep its Record.
#[test]
fn h1_a_table_knows_the_epochs_that_never_became_active() {
    let mut scene = Scene::new(on_the_bucket(3));
    scene.start(P);
    scene.until("P is active", |scene| scene.is_active(P));
    let lost = scene.hold(chunk_of(P));
    scene.write(P);
    scene.until("P's own disk holds it", |scene| scene.disk(P).len() == 2);
    scene.kill(P);
    scene.drop_held(lost);
    // P reads the chain, which ends at 1, and from then on does not reach it.
    scene.start_and_wait(P);
    scene.cut_bucket(P);
    scene.start(A);
    let open = scene.hold(register_of(A, Phase::Active));
    let fence = scene.hold(chunk_of(A));
    scene.until("A is named", |scene| scene.held(fence) > 0);
    scene.start_and_wait(B);
    scene.let_go(fence);
    scene.until("epoch 2 has its slot, and B has read it", |scene| {
        scene.slots() == [1, 2] && scene.disk(B).len() == 2
    });
    scene.lose(A);
    scene.drop_held(open);
    scene.until("epoch 3 is active", |scene| {
        scene.tenure(B) == Tenure::Active(Epoch(3))
    });
    let chain = scene.hold(chain_reads_of(P));
    scene.heal_bucket(P);
    scene.write_and_wait(B);
    scene.until("P follows", |scene| scene.follows(P));
    scene.write_and_wait(B);
    scene.until("P shows it", |scene| scene.shown(P) == scene.shown(B));
    scene.drop_held(chain);
    scene.ends_well();
}

/// Decision 0011: A looks into a slot that the next epoch has taken. Before the answer comes, P, which knows nothing of
/// that epoch, has sent it something else there: the answer speaks of a log that A does not hold any more.
#[test]
fn h1_a_look_beside_another_log_is_not_believed() {
    let mut scene = Scene::with_elector(on_the_bucket(3));
    let registers = [P, A].map(|index| scene.hold(register_reads_of(index)));
    let chunks = scene.hold(|index, what| {
        index == P
            && matches!(
                what,
                Happening::ChunkLands(..) | Happening::ChunkSettles(..)
            )
    });
    let looks = scene.hold(chain_reads_of(A));
    for (one, other) in [(P, B), (A, B)] {
        scene.part(one, other);
    }
    scene.cut(P, A);
    scene.write(P);
    scene.until("B is active", |scene| scene.is_active(B));
    let answer = scene
        .hold(|index, what| index == A && matches!(what, Happening::Input(Input::SlotRead(..))));
    scene.let_go(looks);
    scene.until("A has looked", |scene| scene.held(answer) > 0);
    scene.heal(P, A);
    scene.until("A has what P sent", |scene| scene.disk(A).len() == 2);
    scene.cut(P, A);
    scene.until("A hears nobody", |scene| !scene.follows(A));
    scene.let_go(answer);
    scene.run(3_000);
    assert!(scene.complaints().is_empty(), "{:?}", scene.complaints());
    for register in registers {
        scene.drop_held(register);
    }
    scene.drop_held(chunks);
    scene.ends_well();
}

/// H2: X sleeps before it reads the chain; Y is named in the next epoch, fences, and acknowledges by quorum. X wakes, and
/// must not go on behind Y's fence.
#[test]
fn h2_whoever_finds_a_higher_epoch_in_the_chain_is_deposed() {
    let mut scene = Scene::with_elector(Cluster::quiet(3));
    scene.kill(P);
    scene.until("A is named", |scene| {
        scene.tenure(A) == Tenure::Reading(Epoch(2))
    });
    scene.pause(A);
    scene.part(A, B);
    scene.part(A, P);
    scene.start(P);
    scene.until("somebody is active again", |scene| {
        scene.is_active(P) || scene.is_active(B)
    });
    let next = if scene.is_active(P) { P } else { B };
    scene.write_and_wait(next);
    scene.run(2_000);
    // It hears of nothing but the chain.
    let register = scene.hold(register_reads_of(A));
    scene.wake(A);
    scene.until("A has read it", |scene| scene.tenure(A) == Tenure::None);
    scene.run(1_000);
    scene.drop_held(register);
    scene.ends_well();
}

/// Ancestor H1: P sleeps while it is replaced. What it was just uploading when it wakes is not acknowledged.
#[test]
fn ancestor_h1_a_primary_that_slept_acknowledges_nothing() {
    let mut scene = Scene::running(on_the_bucket(2));
    let (late, write) = on_the_own_disk_alone(&mut scene, &[A]);
    scene.pause(P);
    scene.until("A is active", |scene| scene.is_active(A));
    scene.write_and_wait(A);
    scene.let_go(late);
    scene.wake(P);
    let more = scene.write(P);
    scene.run(10_000);
    assert!(!scene.is_done(write), "{:?}", scene.told(write));
    assert!(
        !scene.is_done(more) || scene.follows(P),
        "{:?}",
        scene.told(more)
    );
    scene.ends_well();
}

/// Ancestor H2: P reaches the bucket and its clients, and no other Node. It is replaced, and acknowledges nothing more.
#[test]
fn ancestor_h2_a_primary_that_only_the_bucket_hears_gives_way() {
    let mut scene = Scene::with_elector(on_the_bucket(3));
    // It could read the register, and does not happen to.
    let register = scene.hold(register_reads_of(P));
    scene.part(P, A);
    scene.part(P, B);
    let next = another_is_active(&mut scene, &[A, B]);
    scene.write_and_wait(next);
    let write = scene.write(P);
    scene.run(3_000);
    assert!(!scene.is_done(write), "{:?}", scene.told(write));
    assert!(!scene.is_active(P));
    scene.drop_held(register);
    scene.ends_well();
}

/// H9, and the ancestor's H8: P sleeps with a Chunk on its way to slot 2. The next epoch takes the slot, two Snapshots
/// cover it, and clean-up comes: the slot stays taken.
#[test]
fn h9_clean_up_keeps_the_slots_that_a_sleeper_could_still_hit() {
    let mut scene = Scene::running(on_the_bucket(2));
    let (late, write) = on_the_own_disk_alone(&mut scene, &[A]);
    scene.pause(P);
    scene.until("A is active", |scene| scene.is_active(A));
    cover_everything(&mut scene, A);
    scene.let_go(late);
    scene.wake(P);
    scene.run(5_000);
    assert!(!scene.is_done(write), "{:?}", scene.told(write));
    scene.ends_well();
}

/// Writes until two Snapshots cover what there was, and clean-up has been there.
fn cover_everything(scene: &mut Scene, primary: usize) {
    let end = scene.slots().pop().expect("there is a chain");
    scene.snapshot_every(3);
    let covered = |scene: &Scene| {
        let older = scene.snapshots().into_iter().rev().nth(1);
        older.is_some_and(|older| older > end + 3)
    };
    while !covered(scene) {
        scene.write_and_wait(primary);
    }
    scene.run(2_000);
}

/// Decision 0004: A is named, reads the chain to its end, and falls asleep. P has not heard of it: it goes on, makes
/// Snapshots and cleans up. The slot that A is about to take must stay taken.
#[test]
fn h9_a_primary_that_was_deposed_deletes_nothing() {
    let mut scene = Scene::with_elector(on_the_bucket(3));
    let register = scene.hold(register_reads_of(P));
    scene.part(P, A);
    scene.part(P, B);
    let fence = scene.hold(|index, what| index != P && is_chunk(what));
    scene.until("the next epoch has begun", |scene| scene.held(fence) > 0);
    let is_fencing = |index: &usize| matches!(scene.tenure(*index), Tenure::Fencing(..));
    let sleeper = [A, B].into_iter().find(is_fencing).expect("it fences");
    let claims = [A, B].map(|index| scene.hold(register_of(index, Phase::Claimed)));
    scene.pause(sleeper);
    scene.snapshot_every(3);
    for _ in 0..20 {
        assert!(scene.is_active(P), "it knows nothing");
        scene.write(P);
        scene.run(200);
    }
    scene.run(2_000);
    assert!(scene.slots().len() > 15, "{:?}", scene.slots());
    scene.let_go(fence);
    scene.wake(sleeper);
    scene.run(1_000);
    for held in claims.into_iter().chain([register]) {
        scene.drop_held(held);
    }
    scene.ends_well();
}

fn is_chunk(what: &Happening) -> bool {
    matches!(what, Happening::ChunkLands(..))
}

/// Decision 0013: the fence of epoch 2 is on its way to slot 2 for long. P takes the slot and the next one, is named
/// again, and slot 2 is cleaned up; the fence lands. A Node that was away since Revision 1 must not take it for Revision 2.
#[test]
fn h9_a_late_fence_where_snapshots_reach_is_not_believed() {
    let mut scene = Scene::running(on_the_bucket(3));
    scene.kill(B);
    let late = scene.hold(chunk_of(A));
    scene.pause(P);
    scene.until("A's fence is on its way", |scene| scene.held(late) > 0);
    scene.pause(A);
    scene.part(A, P);
    // P has not heard of it, and writes on; then it is named again.
    let register = scene.hold(register_reads_of(P));
    scene.wake(P);
    for _ in 0..2 {
        scene.write_and_wait(P);
    }
    scene.let_go(register);
    scene.until("P is active again", |scene| {
        scene.tenure(P) == Tenure::Active(Epoch(3))
    });
    cover_everything(&mut scene, P);
    let slots = scene.slots();
    assert!(!slots.contains(&2) && slots.contains(&3), "{slots:?}");
    scene.let_go(late);
    scene.run(1_000);
    scene.start(B);
    scene.until("B follows", |scene| scene.follows(B));
    scene.ends_well();
}

/// H14: what voters have committed is beyond the chain, and no Snapshot reaches there.
#[test]
fn h14_a_snapshot_ends_where_a_chunk_of_the_chain_does() {
    let mut scene = Scene::running(Cluster::quiet(3));
    for _ in 0..5 {
        scene.write_and_wait(P);
    }
    scene.run(3_000);
    let late = scene.hold(chunk_of(P));
    scene.snapshot_every(3);
    for _ in 0..8 {
        scene.write_and_wait(P);
    }
    scene.run(5_000);
    let end = scene.slots().pop().expect("there is a chain");
    assert!(
        scene.snapshots().iter().all(|last| *last <= 6),
        "{:?} {end}",
        scene.snapshots()
    );
    scene.drop_held(late);
    scene.ends_well();
}

/// Ancestor L4, L8 and B14: B's disk holds another Revision 2 than the chain, and B starts. The chain wins.
#[test]
fn l4_where_disk_and_chain_differ_the_chain_wins() {
    let mut scene = Scene::running(on_the_bucket(2));
    let (lost, _) = on_the_own_disk_alone(&mut scene, &[A]);
    scene.kill(P);
    scene.drop_held(lost);
    scene.until("A is active", |scene| scene.is_active(A));
    scene.write_and_wait(A);
    scene.heal(P, A);
    scene.start(P);
    scene.until("P follows", |scene| scene.follows(P));
    scene.write_and_wait(A);
    scene.until("P shows it", |scene| scene.shown(P) == scene.shown(A));
    scene.ends_well();
}

/// Ancestor L5: what voters have committed waits for the bucket when the last voters are lost. The next Chunk begins
/// where the chain ends.
#[test]
fn l5_a_chunk_begins_where_the_chain_ends() {
    let mut scene = Scene::running(Cluster::quiet(3));
    let late = scene.hold(chunk_of(P));
    for _ in 0..3 {
        scene.write_and_wait(P);
    }
    scene.pause(A);
    scene.pause(B);
    let write = scene.write(P);
    scene.run(100);
    scene.let_go(late);
    scene.until("the bucket has it", |scene| scene.is_done(write));
    scene.ends_well();
}

/// Ancestor B6: one answer of the bucket is lost. The Primary reads back what became of its Chunk, and goes on.
#[test]
fn b6_a_lost_answer_costs_nothing() {
    let mut scene = Scene::running(on_the_bucket(1));
    let settles = scene.hold(|_, what| matches!(what, Happening::ChunkSettles(..)));
    let write = scene.write(P);
    scene.until("the chunk has landed", |scene| scene.slots() == [1, 2]);
    scene.cut_bucket(P);
    scene.let_go(settles);
    scene.run(1_000);
    assert!(!scene.is_done(write));
    scene.heal_bucket(P);
    scene.until("it is done", |scene| scene.is_done(write));
    assert_eq!(scene.tenure(P), Tenure::Active(Epoch(1)));
    scene.ends_well();
}

/// Ancestor B13: P loses its tenure with Records on their way to the bucket, and is Primary again later. What it had
/// gathered then does not come up again.
#[test]
fn b13_what_waited_for_the_bucket_ends_with_the_tenure() {
    let mut scene = Scene::running(Cluster::quiet(3));
    let late = scene.hold(chunk_of(P));
    let answer =
        scene.hold(|index, what| index == P && matches!(what, Happening::ChunkSettles(..)));
    for _ in 0..3 {
        scene.write_and_wait(P);
    }
    scene.pause(P);
    let next = another_is_active(&mut scene, &[A, B]);
    scene.write_and_wait(next);
    scene.wake(P);
    scene.until("P follows", |scene| scene.follows(P));
    scene.until("P votes", |scene| scene.votes(P));
    // The next one knows that, too.
    scene.write_and_wait(next);
    scene.let_go(late);
    scene.let_go(answer);
    // P alone has what the next one wrote last, and so is named.
    let chunks = scene.hold(chunk_of(next));
    scene.cut(next, A + B - next);
    scene.write_and_wait(next);
    scene.lose(next);
    scene.drop_held(chunks);
    scene.until("P is active", |scene| scene.is_active(P));
    scene.ends_well();
}
