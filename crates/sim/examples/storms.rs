//! Storms by the thousand: `cargo run --release -p sim --example storms -- FIRST COUNT [TRACE]`.
//!
//! Each seed is a story of one to five Nodes; a broken claim panics with its seed. With TRACE every message
//! and effect of the first seed is printed.

use std::time::Instant;

use sim::world::story;

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .map(|argument| argument.parse().expect("FIRST COUNT [TRACE] are numbers"))
        .collect();
    let (first, count) = (
        numbers.first().copied().unwrap_or(0),
        numbers.get(1).copied().unwrap_or(1_000),
    );
    let traced = numbers.get(2).is_some();
    let began = Instant::now();
    let (mut steps, mut acknowledged, mut hours, mut failed) = (0, 0, 0.0, Vec::new());
    for seed in first..first + count {
        let told = std::panic::catch_unwind(|| story(seed, traced));
        match told {
            Ok(world) => {
                steps += world.steps();
                acknowledged += world.checks().acknowledged();
                hours += world.now() as f64 / 3_600_000.0;
            }
            Err(_) => {
                println!("seed {seed} failed");
                failed.push(seed);
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{count} seeds, {hours:.1} cluster-hours, {steps} steps ({:.0} a second), {acknowledged} \
         acknowledged writes; {} failed: {failed:?}",
        steps as f64 / seconds,
        failed.len()
    );
    assert!(failed.is_empty(), "a claim was broken");
}
