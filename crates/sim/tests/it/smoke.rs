//! A few seeds on each change; every seed that ever failed stays, with its story.

use sim::story::story;
use sim::world::Telling;

/// Seeds that failed once; `what_failed_once_passes` tells their stories.
const FAILED: [u64; 4] = [322, 4574, 9163, 41_699];

#[test]
fn a_hundred_storms_of_one_to_five_nodes_break_no_claim() {
    let (mut steps, mut acknowledged, mut floors) = (0, 0, 0);
    for seed in 0..100 {
        let world = story(seed, Telling::Silent);
        steps += world.steps();
        acknowledged += world.checks().acknowledged();
        floors += world.checks().floors.count();
    }
    println!("{steps} steps, {acknowledged} acknowledged writes, {floors} floors");
    assert!(floors > 1_000, "the storms compacted too little: {floors}");
    assert!(
        acknowledged > 10_000,
        "the storms left too little work to prove anything"
    );
}

/// What a seed means changes with the weather; that it passes does not.
///
/// * 322: a rolling change went on when the storm was over, and a Node that was to answer reads was told to stop. The
///   fault was the story's.
/// * 4574: two Nodes of three were gone, and the third had hundreds of small Chunks to read in a slow bucket before it
///   could write. It did so; the judge was impatient.
/// * 9163: a disk failed while its Node was starting, and mended with work on its way that nobody was told was dropped. The
///   fault was the weather's.
/// * 41699: a Primary slept, was replaced, woke, and took the lock that the other had given up. It granted itself a lease by
///   what it knew of the register from before, and answered a stale read. The fault was the rules' (decision 0027).
#[test]
fn what_failed_once_passes() {
    for seed in FAILED {
        assert!(story(seed, Telling::Silent).steps() > 1_000);
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    assert_eq!(
        story(7, Telling::Traced).trace(),
        story(7, Telling::Traced).trace()
    );
    assert_ne!(
        story(7, Telling::Silent).trace(),
        story(8, Telling::Silent).trace()
    );
}
