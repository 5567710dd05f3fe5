//! Storms by the thousand: `cargo run --release -p sim --example storms -- FIRST COUNT [--threads N] [--enough]`.
//!
//! Each seed is the story of one cluster; a broken claim is told with its seed. With `--enough` the first one ends
//! the run. `storms SEED --tell` prints every input and effect of one seed.

use std::cell::RefCell;
use std::panic;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use sim::story::story;
use sim::world::{Telling, World};

/// What is to be done.
#[derive(Clone, Copy)]
struct Wanted {
    first: u64,
    count: u64,
    threads: usize,
    enough: bool,
    tells: bool,
}

/// What stories added up to.
#[derive(Default)]
struct Sums {
    seeds: u64,
    steps: u64,
    acknowledged: u64,
    unclear: u64,
    reads: u64,
    watched: u64,
    epochs: u64,
    late_fences: u64,
    milliseconds: u64,
    hopeless: u64,
    writable: Vec<u64>,
    whole: Vec<u64>,
    failed: Vec<u64>,
}

thread_local! {
    /// What the last panic of this thread said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    let wanted = wanted();
    panic::set_hook(Box::new(|info| {
        SAID.with_borrow_mut(|said| *said = info.to_string());
    }));
    let began = Instant::now();
    let (next, broken) = (AtomicU64::new(wanted.first), AtomicBool::new(false));
    let mut sums = Sums::default();
    thread::scope(|scope| {
        let tellers: Vec<_> = (0..wanted.threads)
            .map(|_| scope.spawn(|| tell(wanted, &next, &broken)))
            .collect();
        for teller in tellers {
            sums.add(teller.join().expect("a teller catches what stories throw"));
        }
    });
    sums.report(began.elapsed().as_secs_f64());
    if sums.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn wanted() -> Wanted {
    let mut wanted = Wanted {
        first: 0,
        count: 1_000,
        threads: 1,
        enough: false,
        tells: false,
    };
    let mut numbers = Vec::new();
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        match word.as_str() {
            "--enough" => wanted.enough = true,
            "--tell" => wanted.tells = true,
            "--threads" => wanted.threads = number(given.next().as_deref()) as usize,
            word => numbers.push(number(Some(word))),
        }
    }
    if let Some(first) = numbers.first() {
        wanted.first = *first;
    }
    wanted.count = numbers.get(1).copied().unwrap_or(wanted.count);
    if wanted.tells {
        wanted.count = 1;
    }
    wanted
}

fn number(word: Option<&str>) -> u64 {
    let number = word.and_then(|word| word.parse().ok());
    number.expect("usage: storms FIRST COUNT [--threads N] [--enough], or: storms SEED --tell")
}

/// Tells one story after the other, until there are no more.
fn tell(wanted: Wanted, next: &AtomicU64, broken: &AtomicBool) -> Sums {
    let mut sums = Sums::default();
    let telling = if wanted.tells {
        Telling::Printed
    } else {
        Telling::Silent
    };
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let over = wanted.enough && broken.load(Ordering::Relaxed);
        if over || seed >= wanted.first + wanted.count {
            return sums;
        }
        sums.seeds += 1;
        match panic::catch_unwind(|| story(seed, telling)) {
            Ok(world) => sums.count(&world),
            Err(_) => {
                broken.store(true, Ordering::Relaxed);
                SAID.with_borrow(|said| println!("seed {seed} failed: {said}"));
                sums.failed.push(seed);
            }
        }
    }
}

impl Sums {
    fn count(&mut self, world: &World) {
        let checks = world.checks();
        self.steps += world.steps();
        self.acknowledged += checks.writes.acknowledged();
        self.unclear += checks.writes.unclear();
        self.reads += checks.reads.count() + checks.committed.local_reads();
        self.watched += checks.watches.delivered();
        self.epochs += checks.registers.epochs();
        self.late_fences += checks.chain.late_fences();
        self.milliseconds += world.now();
        self.hopeless += u64::from(checks.recovery.is_hopeless());
        self.writable.extend(checks.recovery.writable_after());
        self.whole.extend(checks.recovery.whole_after());
    }

    fn add(&mut self, other: Sums) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.acknowledged += other.acknowledged;
        self.unclear += other.unclear;
        self.reads += other.reads;
        self.watched += other.watched;
        self.epochs += other.epochs;
        self.late_fences += other.late_fences;
        self.milliseconds += other.milliseconds;
        self.hopeless += other.hopeless;
        self.writable.extend(other.writable);
        self.whole.extend(other.whole);
        self.failed.extend(other.failed);
    }

    fn report(&mut self, seconds: f64) {
        let hours = self.milliseconds as f64 / 3_600_000.0;
        println!(
            "{} seeds in {seconds:.0} s: {hours:.1} cluster-hours ({:.2} a second), {} steps ({:.0} a second)",
            self.seeds,
            hours / seconds,
            self.steps,
            self.steps as f64 / seconds,
        );
        println!(
            "{} writes acknowledged, {} unclear; {} reads; {} Records watched; {} epochs; {} late fences",
            self.acknowledged,
            self.unclear,
            self.reads,
            self.watched,
            self.epochs,
            self.late_fences,
        );
        println!(
            "writable after {}, whole after {}; {} lost more than a quorum",
            spread(&mut self.writable),
            spread(&mut self.whole),
            self.hopeless
        );
        self.failed.sort_unstable();
        println!("{} failed: {:?}", self.failed.len(), self.failed);
    }
}

/// The middle and the worst.
fn spread(milliseconds: &mut [u64]) -> String {
    milliseconds.sort_unstable();
    let middle = milliseconds.get(milliseconds.len() / 2);
    match (middle, milliseconds.last()) {
        (Some(middle), Some(worst)) => format!("{middle} ms, {worst} at worst"),
        _ => "-".to_owned(),
    }
}
