//! The bucket fails: every kind of fault, on every kind of object, from the start on and again under load.
//!
//! Claims: no false success, no definite failure for what may have happened, recovery without a restart.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use netsy::bucket::Document;
use netsy::bucket::faults::{Fault, Operation, Verb};
use netsy::bucket::names;
use tokio::time::sleep;

use super::load::{Ledger, Load, judge};
use super::node::{Place, Running, until};

/// How long the weather is bad.
const BAD: Duration = Duration::from_millis(1_000);

/// What the weather falls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Chunk,
    Register,
    Lock,
    Members,
    Node,
    Everything,
}

const KINDS: [Kind; 6] = [
    Kind::Chunk,
    Kind::Register,
    Kind::Lock,
    Kind::Members,
    Kind::Node,
    Kind::Everything,
];

impl Kind {
    fn is(self, object: &str) -> bool {
        let below = |folder: object_store::path::Path| object.starts_with(folder.as_ref());
        match self {
            Kind::Chunk => below(names::chunks()),
            Kind::Register => below(Document::Primary.location()),
            Kind::Lock => below(Document::Elector.location()),
            Kind::Members => below(Document::Members.location()),
            Kind::Node => below(names::nodes()),
            Kind::Everything => true,
        }
    }
}

fn writes(operation: &Operation) -> bool {
    matches!(operation.verb, Verb::Create | Verb::Replace)
}

fn reads(operation: &Operation) -> bool {
    matches!(operation.verb, Verb::Get)
}

/// One Node from its start in bad weather through a second storm under load, and the judgement.
async fn storm(kind: Kind, fault: fn(&Operation) -> Fault) {
    let place = Place::new();
    let setup = place.node("one");
    let weather = move |operation: &Operation| {
        if kind.is(&operation.object) {
            fault(operation)
        } else {
            Fault::None
        }
    };
    setup.sky.set(weather);
    let mut node = setup.start().await;
    sleep(BAD).await;
    node.sky.calm();
    recovers(&mut node, kind).await;

    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&ledger, &[node.clients], 6);
    until("there is some load", || async { ledger.done() >= 20 }).await;
    node.sky.set(weather);
    sleep(BAD).await;
    node.sky.calm();
    let before = ledger.done();
    until("writes go on", || async { ledger.done() > before + 20 }).await;
    recovers(&mut node, kind).await;
    load.finish().await;
    assert!(ledger.reads() > 0);
    node.kill().await;
    judge(&place, &ledger, "one").await;
}

/// The Node comes back by itself.
async fn recovers(node: &mut Running, kind: Kind) {
    let give_up = std::time::Instant::now() + super::node::PATIENCE;
    loop {
        let said = match node.ready().await {
            Ok(()) => return,
            Err(said) => said,
        };
        if let Some(ended) = node.has_ended() {
            panic!("{kind:?}: it ended: {ended:?}");
        }
        assert!(
            std::time::Instant::now() < give_up,
            "{kind:?}: not ready again: {said}"
        );
        sleep(Duration::from_millis(25)).await;
    }
}

async fn storms(fault: fn(&Operation) -> Fault) {
    let storms = KINDS.map(|kind| tokio::spawn(storm(kind, fault)));
    let failed: Vec<String> = join_all(storms)
        .await
        .into_iter()
        .zip(KINDS)
        .filter_map(|(ended, kind)| ended.err().map(|panic| format!("{kind:?}: {panic}")))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// One test for each row of the table.
macro_rules! weather {
    ($($name:ident: $fault:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                storms($fault).await;
            }
        )*
    };
}

weather! {
    requests_are_lost: |_| Fault::Before;
    answers_are_lost: |operation| if writes(operation) { Fault::After } else { Fault::None };
    writes_land_late: |operation| if writes(operation) {
        Fault::Late(Duration::from_millis(500))
    } else {
        Fault::None
    };
    nothing_is_answered: |_| Fault::Hang;
    writes_land_and_nothing_is_answered: |operation| if writes(operation) {
        Fault::HangAfter
    } else {
        Fault::None
    };
    everything_is_denied: |_| Fault::Denied;
    conditions_conflict: |operation| if writes(operation) { Fault::Conflict } else { Fault::None };
    everything_is_slow: |_| Fault::Delay(Duration::from_millis(120));
    reads_end_early: |operation| match operation.nth % 2 {
        0 if reads(operation) => Fault::Short(operation.nth as usize % 150),
        0 if writes(operation) => Fault::After,
        _ => Fault::None,
    };
    bits_flip_on_reads: |operation| match operation.nth % 2 {
        // What the self-test reads back wrong is a store that must not be used.
        0 if operation.object.starts_with("selftest") => Fault::None,
        0 if reads(operation) => Fault::Flip(operation.nth as usize * 37 % 2000),
        0 if writes(operation) => Fault::After,
        _ => Fault::None,
    };
    everything_at_once: |operation| match operation.number * 7 % 10 {
        0 => Fault::Before,
        1 => Fault::After,
        2 => Fault::Late(Duration::from_millis(200)),
        3 => Fault::Conflict,
        4 => Fault::Delay(Duration::from_millis(100)),
        5 => Fault::HangAfter,
        _ => Fault::None,
    };
}
