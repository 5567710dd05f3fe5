//! The protocol model: the quick plans hold to their end, and each rule that is switched off is found.
//!
//! The larger plans take minutes: `cargo run --release -p sim --example explore`.

use sim::explore::moves::Model;
use sim::explore::plans::{CASES, PLANS, Plan};
use sim::explore::sabotage::Sabotage;
use sim::explore::story;

/// More states than any quick search needs.
const LIMIT: usize = 4_000_000;

fn holds(name: &str) {
    let plan = Plan::named(name).expect("the plan exists");
    let model = Model { plan, off: None };
    let found = model.search(LIMIT);
    if let Some((breach, way)) = &found.breach {
        panic!("{name}:\n{}", story::tell(&model, way, *breach));
    }
    assert!(found.exhausted, "{name} is not a quick plan any more");
    println!("{name}: {} states, depth {}", found.states, found.depth);
}

fn is_found(rule: Sabotage) {
    let (_, plan) = CASES
        .iter()
        .find(|(case, _)| *case == rule)
        .expect("every sabotage has its plan");
    let plan = Plan::named(plan).expect("the plan exists");
    let off = Some(rule);
    let model = Model { plan, off };
    let found = model.search(LIMIT);
    let Some((breach, way)) = found.breach else {
        panic!(
            "{rule:?} is switched off, and no claim breaks in {}",
            plan.name
        );
    };
    let story = story::tell(&model, &way, breach);
    assert!(story.contains(&format!("=> {breach}")), "{story}");
    println!("{rule:?} in {} steps:\n{story}", way.len());
}

macro_rules! plans_hold {
    ($($name:ident)*) => { $(#[test] fn $name() { holds(stringify!($name)); })* };
}

macro_rules! sabotages_are_found {
    ($($name:ident: $rule:ident,)*) => {
        $(#[test] fn $name() { is_found(Sabotage::$rule); })*

        #[test]
        fn no_sabotage_is_forgotten() {
            let tested = [$(Sabotage::$rule),*];
            let forgotten: Vec<_> = CASES.iter().filter(|(rule, _)| !tested.contains(rule)).collect();
            assert!(forgotten.is_empty(), "{forgotten:?} have no test");
        }
    };
}

plans_hold! { single birth fever leases images snapshots }

sabotages_are_found! {
    h1_a_table_of_active_epochs: TableOfActives,
    h2_reading_past_a_higher_epoch: ReadsPastHigherEpoch,
    h2b_a_second_name: SecondName,
    h3_a_swap_taken_for_lost: SwapTakenForLost,
    h4_a_tenure_survives_a_restart: TenureSurvivesRestart,
    h5_a_promiser_stays_primary: PromiserStaysPrimary,
    h6_a_primary_without_vote: PrimaryWithoutVote,
    h7_a_receipt_before_the_cut: ReceiptBeforeCut,
    h7b_a_heartbeat_commits: HeartbeatCommits,
    h8_the_gate_is_open_in_a_swap: GateOpenInSwap,
    h8b_a_swap_before_the_flush: SwapBeforeFlush,
    h9_epochs_are_cleaned_away: CleansEpochs,
    h9b_a_larger_batch: LargerBatch,
    h9c_a_cleaner_that_sees_no_register: CleansUnseen,
    h9d_an_empty_slot_is_the_end: EmptySlotIsEnd,
    h9e_an_old_fence_is_believed: OldFenceBelieved,
    h9f_the_own_fence_is_believed_at_once: FenceBelievedAtOnce,
    h10_named_under_a_lease: NamesUnderLease,
    h10b_reads_after_closing: ReadsAfterClosing,
    h10c_reads_before_the_epoch_record: ReadsBeforeOpening,
    h11_an_answer_from_what_is_not_committed: AnswersUncommitted,
    h11b_unconfirmed_reads: ReadsUnconfirmed,
    h12_a_single_voter: SingleVoter,
    h13_an_old_disk_votes: OldDiskVotes,
    h14_a_snapshot_above_the_chain: SnapshotAboveChain,
    h14b_a_snapshot_inside_a_chunk: SnapshotInsideChunk,
    h15_a_claim_below_a_refusal: ClaimIgnoresRefusals,
    too_few_promises: TooFewPromises,
    any_promiser_is_named: AnyPromiser,
    a_fence_without_the_tail: FenceWithoutTail,
    a_lost_disk_keeps_its_vote: LostDiskVotes,
}

/// H1b. The chain and the tables mend it: see [`Sabotage::OpeningBeforeFence`].
#[test]
fn an_epoch_record_in_the_own_log_before_the_fence_breaks_nothing_here() {
    let plan = Plan::named("birth").expect("the plan exists");
    let off = Some(Sabotage::OpeningBeforeFence);
    let found = Model { plan, off }.search(LIMIT);
    assert!(found.breach.is_none() && found.exhausted);
}

#[test]
fn every_plan_has_a_name_of_its_own() {
    for (at, plan) in PLANS.iter().enumerate() {
        assert!(PLANS[..at].iter().all(|other| other.name != plan.name));
    }
}
