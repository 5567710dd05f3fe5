//! A few seeds on each change; every seed that ever failed stays, with its story.

use sim::weather::Weather;
use sim::world::World;

fn story(seed: u64, nodes: usize) -> World {
    let mut world = World::new(seed, nodes, Weather::ROUGH);
    world.run(120_000);
    world.calm();
    world.run(60_000);
    assert!(
        world.is_writable(),
        "seed {seed}: nobody is active a minute after the faults stopped"
    );
    world.finish();
    world
}

#[test]
fn a_hundred_storms_of_one_to_three_nodes_break_no_claim() {
    let (mut steps, mut acknowledged) = (0, 0);
    for seed in 0..100 {
        let world = story(seed, 1 + (seed % 3) as usize);
        steps += world.steps();
        acknowledged += world.checks().acknowledged();
    }
    println!("{steps} steps, {acknowledged} acknowledged writes");
    assert!(
        acknowledged > 10_000,
        "the storms left too little work to prove anything"
    );
}

#[test]
fn the_same_seed_tells_the_same_story() {
    assert_eq!(story(7, 3).trace(), story(7, 3).trace());
    assert_ne!(story(7, 3).trace(), story(8, 3).trace());
}
