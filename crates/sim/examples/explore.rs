//! Searches the protocol model through every plan, or some of them, to the end.
//!
//! `cargo run --release -p sim --example explore [PLAN ...]` says for each plan how many states there are
//! and that no claim breaks. `--off RULE PLAN` switches a rule off and tells the shortest story that breaks
//! a claim; `--sabotages` does so for every rule.

use std::time::Instant;

use sim::explore::moves::Model;
use sim::explore::plans::{CASES, PLANS, Plan};
use sim::explore::sabotage::Sabotage;
use sim::explore::story;

/// States after which a search gives up.
const LIMIT: usize = 400_000_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let whole = match words.first().map(String::as_str) {
        Some("--sabotages") => {
            CASES
                .iter()
                .filter(|(rule, plan)| !is_found(*rule, plan))
                .count()
                == 0
        }
        Some("--off") => [(Sabotage::OpeningBeforeFence, "voting")]
            .iter()
            .chain(CASES)
            .find(|(rule, _)| Some(&format!("{rule:?}")) == words.get(1))
            .is_some_and(|(rule, plan)| is_found(*rule, words.get(2).map_or(*plan, |plan| plan))),
        _ => {
            PLANS
                .iter()
                .filter(|plan| words.is_empty() || words.iter().any(|word| word == plan.name))
                .filter(|plan| !holds(plan))
                .count()
                == 0
        }
    };
    std::process::exit(i32::from(!whole));
}

/// Searches a plan with every rule in force.
fn holds(plan: &Plan) -> bool {
    let model = Model {
        plan: *plan,
        off: None,
    };
    let began = Instant::now();
    let found = model.search(LIMIT);
    let took = began.elapsed().as_secs_f32();
    let (name, states, depth) = (plan.name, found.states, found.depth);
    let verdict = match (&found.breach, found.exhausted) {
        (Some(_), _) => "BROKEN",
        (None, true) => "holds",
        (None, false) => "NOT EXHAUSTED",
    };
    println!("{name:<12} {states:>10} states, depth {depth:>3}, {took:>7.1} s: {verdict}");
    if let Some((breach, way)) = &found.breach {
        println!("{}", story::tell(&model, way, *breach));
    }
    found.exhausted
}

/// Searches a plan with one rule off, and tells the story.
fn is_found(rule: Sabotage, plan: &str) -> bool {
    let Some(plan) = Plan::named(plan) else {
        println!("no plan is called {plan}");
        return false;
    };
    let model = Model {
        plan,
        off: Some(rule),
    };
    let began = Instant::now();
    let found = model.search(LIMIT);
    let took = began.elapsed().as_secs_f32();
    let (name, states) = (plan.name, found.states);
    match &found.breach {
        Some((breach, way)) => {
            let steps = way.len();
            println!("{rule:?} in {name}: found in {steps} steps, {states} states, {took:.1} s");
            println!("{}", story::tell(&model, way, *breach));
        }
        None => println!("{rule:?} in {name}: NOT FOUND in {states} states, {took:.1} s"),
    }
    found.breach.is_some()
}
