//! Closing, and rolling restarts: nothing is lost, and the cluster is hardly ever without a Primary.

use sim::cluster::Cluster;
use sim::scene::Scene;

use super::{A, B, P};

/// The longest a cluster may be without an Active Primary in a rolling restart, milliseconds.
const WITHOUT: u64 = 2_000;

/// Ancestor L7 and B1: all Nodes are stopped and started, one after the other, while clients write.
#[test]
fn l7_a_rolling_restart_loses_nothing_and_takes_no_pause() {
    let mut scene = Scene::running(Cluster::quiet(3));
    let mut without = 0;
    for index in [P, A, B] {
        scene.close(index);
        let closed = scene.now();
        for _ in 0..200 {
            let active = (0..3).find(|index| scene.is_active(*index));
            if let Some(active) = active {
                without = 0;
                scene.write(active);
            } else {
                without += 50;
                assert!(without < WITHOUT, "nobody has been active for {without} ms");
            }
            scene.run(50);
            if scene.node(index).is_none() && scene.now() > closed + 2_000 {
                scene.start(index);
            }
        }
        scene.until("it follows again", |scene| scene.follows(index));
    }
    scene.ends_well();
}

/// A single Node that is stopped in good order needs nobody's patience when it starts again.
#[test]
fn a_node_that_closed_is_active_again_at_once() {
    let mut scene = Scene::running(Cluster::quiet(1));
    scene.write_and_wait(P);
    scene.close(P);
    scene.until("it has left", |scene| scene.node(P).is_none());
    let began = scene.now();
    scene.start(P);
    scene.until("it is active", |scene| scene.is_active(P));
    assert!(
        scene.now() < began + 1_000,
        "it took {} ms",
        scene.now() - began
    );
    scene.ends_well();
}
