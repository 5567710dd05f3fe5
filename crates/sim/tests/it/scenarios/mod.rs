//! Every hazard as a small story, told on purpose: it passes, and fails when the rule that prevents it is broken.
//!
//! The numbers are those of `docs/HAZARDS.md`, which names for each the sabotage of `scripts/sabotage` that must make
//! it fail. P is the first Primary; `SCENE=1 cargo test -p sim NAME -- --nocapture` prints every input and effect.

mod chain;
mod closing;
mod compaction;
mod electing;
mod found;
mod reads;
mod streams;
mod tenures;
mod voters;

use rules::quorum::DISABLED;
use sim::clients::Op;
use sim::cluster::Cluster;
use sim::scene::{Held, Scene, chunk_of};

const P: usize = 0;
const A: usize = 1;
const B: usize = 2;
/// Of five Nodes the last two.
const C: usize = 3;
const ELECTOR: usize = 4;

/// P writes what its own disk alone holds: the Chunk is held back, and the other Nodes of `others` hear nothing of it. They
/// do not hear P until they are healed.
fn on_the_own_disk_alone(scene: &mut Scene, others: &[usize]) -> (Held, Op) {
    let chunks = scene.hold(chunk_of(P));
    for other in others {
        scene.cut(P, *other);
    }
    let before = scene.disk(P).len();
    let write = scene.write(P);
    scene.until("its own disk holds it", |scene| {
        scene.disk(P).len() > before
    });
    (chunks, write)
}

/// `nodes` Nodes without voters: every commit goes by the bucket path.
fn on_the_bucket(nodes: usize) -> Cluster {
    Cluster {
        quorum: [DISABLED; 2],
        ..Cluster::quiet(nodes)
    }
}

/// Five Nodes, of which the first is Primary and hears nobody but the last, its Elector.
fn heard_by_its_elector_only(cluster: Cluster) -> Scene {
    let mut scene = Scene::with_elector(cluster);
    scene.run(10_000);
    for index in [A, B] {
        scene.kill(index);
        scene.start_and_wait(index);
    }
    scene.until("they follow", |scene| scene.follows(A) && scene.follows(B));
    scene.cut_bucket(P);
    for index in [A, B, C] {
        scene.part(P, index);
    }
    scene.until("nobody hears the primary", |scene| {
        [A, B, C].iter().all(|index| !scene.follows(*index))
    });
    assert!(scene.has_lease(P), "the elector hears it");
    scene
}

/// Waits until one of `others` is Active: which.
fn another_is_active(scene: &mut Scene, others: &[usize]) -> usize {
    let active = |scene: &Scene| others.iter().copied().find(|index| scene.is_active(*index));
    scene.until("another is active", |scene| active(scene).is_some());
    active(scene).expect("it was just now")
}

/// Another Node becomes Primary and acknowledges a write; then the old one is asked.
fn another_writes_and_the_old_one_reads(scene: &mut Scene) {
    let next = another_is_active(scene, &[A, B, C, ELECTOR]);
    scene.write_and_wait(next);
    scene.read(P);
    scene.run(1_000);
}

/// Three Nodes that vote. B is the Elector, and the youngest: it is named where logs are equal.
fn b_is_the_youngest() -> Scene {
    let mut scene = Scene::with_elector(Cluster::quiet(3));
    scene.kill(B);
    scene.start_and_wait(B);
    scene.until("B is elector and follows", |scene| {
        scene.is_elector(B) && scene.follows(B)
    });
    scene
}

/// P has given up its voters, and dies with `chunks` on their way. B, which knows nothing of late, needs nobody's promise.
fn b_takes_over_without_voters(mut scene: Scene, chunks: Held) {
    scene.until("nobody votes", |scene| scene.register().voters.is_empty());
    scene.kill(P);
    scene.drop_held(chunks);
    scene.pause(A);
    scene.wake(B);
    scene.until("B is active", |scene| scene.is_active(B));
    scene.ends_well();
}
