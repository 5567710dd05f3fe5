//! Compaction: a floor in effect is never taken back.

use rules::revision::Revision;
use sim::cluster::Cluster;
use sim::scene::{Scene, chunk_of};

use super::{A, B, P};

fn floor(scene: &Scene, index: usize) -> Revision {
    let node = scene.node(index).expect("it runs");
    node.log().compactions.floor()
}

/// H15, and the ancestor's S7: P's compaction is in A's log, and not committed. It is cut away later; A's floor must not
/// have risen.
#[test]
fn h15_a_compaction_that_is_cut_away_never_was() {
    let mut scene = Scene::running(Cluster::quiet(5));
    for _ in 0..10 {
        scene.write_and_wait(P);
    }
    scene.run(3_000);
    let chunks = scene.hold(chunk_of(P));
    for index in [B, 3, 4] {
        scene.pause(index);
    }
    scene.compact(P, 2);
    scene.until("A's disk holds it", |scene| scene.disk(A).len() == 12);
    assert_eq!(floor(&scene, P), Revision::ZERO);
    assert_eq!(floor(&scene, A), Revision::ZERO);
    scene.kill(P);
    scene.drop_held(chunks);
    scene.pause(A);
    for index in [B, 3, 4] {
        scene.wake(index);
    }
    scene.until("somebody is active", |scene| {
        [B, 3, 4].iter().any(|index| scene.is_active(*index))
    });
    scene.wake(A);
    scene.until("A follows", |scene| scene.follows(A));
    assert_eq!(floor(&scene, A), Revision::ZERO);
    scene.ends_well();
}

/// A compaction that voters have committed waits for the bucket: until then a Node could still need what is below.
#[test]
fn a_floor_rises_when_the_bucket_has_its_record() {
    let mut scene = Scene::running(Cluster::quiet(3));
    for _ in 0..10 {
        scene.write_and_wait(P);
    }
    scene.run(3_000);
    let chunks = scene.hold(chunk_of(P));
    scene.compact(P, 2);
    scene.until("it is committed", |scene| scene.shown(P) == Revision(12));
    assert_eq!(floor(&scene, P), Revision::ZERO);
    scene.let_go(chunks);
    scene.until("the floor has risen everywhere", |scene| {
        (0..3).all(|index| floor(scene, index) == Revision(9))
    });
    scene.ends_well();
}
