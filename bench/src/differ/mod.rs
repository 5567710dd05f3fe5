//! The differential run: the same random Steps at a real etcd and at Netsy, every field compared.
//!
//! A sequence starts on two empty servers, so Revisions must be equal, too. Steps go one after the other;
//! watches are compared as logs when both have gone quiet. A difference is shrunk by replaying less and
//! less of the sequence on fresh servers, and the rest is printed and kept in a file for `--replay`.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

mod compare;
mod drive;
mod generate;
mod pair;
mod shrink;
mod step;

use crate::dice::{Dice, fresh_seed};
use crate::server::Kind;
use compare::{EXCUSED, Reference};
use generate::{Generator, Known};
use pair::{Difference, Pair};
use step::{Answer, Step};

/// The same random operations at etcd and at Netsy, compared field by field.
#[derive(Args, Clone, Debug)]
pub(crate) struct Differ {
    /// The netsy binary.
    #[arg(long, default_value = "target/debug/netsy")]
    netsy: PathBuf,
    /// The etcd binary that is right by definition.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Judge this etcd instead of Netsy: how the harness itself is checked.
    #[arg(long)]
    second_etcd: Option<PathBuf>,
    /// Sequences, each on fresh servers.
    #[arg(long, default_value_t = 8)]
    sequences: u64,
    /// Steps per sequence.
    #[arg(long, default_value_t = 500)]
    steps: usize,
    /// The first sequence's seed; drawn and printed by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Replay the steps of a file, or of every file of a directory, instead.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Where a shrunk sequence is written.
    #[arg(long, default_value = "target/differ")]
    found: PathBuf,
    /// Fresh pairs of servers that shrinking may use.
    #[arg(long, default_value_t = 150)]
    shrinks: usize,
    /// Go on after a difference, and list them all at the end.
    #[arg(long)]
    keep_going: bool,
}

impl Differ {
    /// Runs every sequence; an error if a difference was found.
    pub(crate) async fn run(self) -> Result<()> {
        let kinds = self.kinds();
        if let Some(file) = &self.replay {
            return self.replay(&kinds, file).await;
        }
        println!("not compared:");
        for (what, why) in EXCUSED {
            println!("  {what}: {why}");
        }
        let first = self.seed.unwrap_or_else(fresh_seed);
        let mut found = Vec::new();
        for seed in first..first + self.sequences {
            let (steps, tally, difference) = self.sequence(&kinds, seed).await?;
            let Some(difference) = difference else {
                println!("seed {seed}: {} steps, no difference: {tally}", steps.len());
                continue;
            };
            println!(
                "seed {seed}: difference at step {}\n{difference}",
                difference.at
            );
            found.push(self.explain(&kinds, seed, steps, difference).await?);
            if !self.keep_going {
                break;
            }
        }
        if found.is_empty() {
            println!(
                "{} sequences of {} steps, no difference",
                self.sequences, self.steps
            );
            return Ok(());
        }
        bail!("differences found:\n{}", found.join("\n"))
    }

    fn kinds(&self) -> [Kind; 2] {
        let reference = Kind::Etcd {
            binary: self.etcd.clone(),
        };
        let subject = match &self.second_etcd {
            Some(binary) => Kind::Etcd {
                binary: binary.clone(),
            },
            None => Kind::Dev {
                binary: self.netsy.clone(),
            },
        };
        [reference, subject]
    }

    /// Draws and runs one sequence; returns its steps up to the difference, if there is one.
    async fn sequence(
        &self,
        kinds: &[Kind; 2],
        seed: u64,
    ) -> Result<(Vec<Step>, Tally, Option<Difference>)> {
        let mut pair = Pair::start(kinds).await?;
        let reference = Reference::of(&pair.reference_version().await?);
        let mut generator = Generator::new(Dice::new(seed).next(), reference);
        let mut known = Known::default();
        let (mut steps, mut tally) = (Vec::new(), Tally::default());
        for at in 0..self.steps {
            pair.look(&mut known).await?;
            let step = generator.step(&known);
            steps.push(step.clone());
            let answer = match pair.step(at, &step).await? {
                Ok(answer) => answer,
                Err(difference) => return Ok((steps, tally, Some(difference))),
            };
            tally.count(&step, &answer);
            if let (Step::Grant(asked), Answer::Grant(_)) = (&step, &answer) {
                known.leases.extend((asked.id != 0).then_some(asked.id));
            }
        }
        let difference = pair.settle(self.steps).await.err();
        tally.revision = known.revision;
        tally.events = pair.events();
        Ok((steps, tally, difference))
    }

    /// Shrinks what was found and writes it to a file; returns a line that names it.
    async fn explain(
        &self,
        kinds: &[Kind; 2],
        seed: u64,
        steps: Vec<Step>,
        difference: Difference,
    ) -> Result<String> {
        println!(
            "shrinking {} steps with up to {} fresh pairs of servers ...",
            steps.len(),
            self.shrinks
        );
        let (steps, difference) = shrink::shrink(kinds, steps, difference, self.shrinks).await?;
        println!("\nseed {seed}, shrunk to {} steps:", steps.len());
        for step in &steps {
            println!("  {}", brief(step));
        }
        println!("{difference}\n");
        fs::create_dir_all(&self.found)?;
        let file = self.found.join(format!("{seed}.steps"));
        let lines: Vec<String> = steps.iter().map(Step::to_line).collect();
        fs::write(&file, lines.join("\n") + "\n")
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(format!(
            "  seed {seed}: {} steps; bench differ --replay {}",
            steps.len(),
            file.display()
        ))
    }

    /// Replays a file of steps, or every file of a directory.
    async fn replay(&self, kinds: &[Kind; 2], path: &Path) -> Result<()> {
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            files = fs::read_dir(path)?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<_>>()?;
            files.sort();
        }
        let mut differing = 0;
        for file in &files {
            let text = fs::read_to_string(file);
            let text = text.with_context(|| format!("reading {}", file.display()))?;
            let steps = text
                .lines()
                .map(Step::from_line)
                .collect::<Result<Vec<_>>>()?;
            let Some(difference) = pair::replay(kinds, &steps).await? else {
                println!("{}: {} steps, no difference", file.display(), steps.len());
                continue;
            };
            differing += 1;
            println!("{}: difference at step {}", file.display(), difference.at);
            for step in &steps {
                println!("  {}", brief(step));
            }
            println!("{difference}\n");
        }
        ensure!(
            differing == 0,
            "{differing} of {} replays differ",
            files.len()
        );
        Ok(())
    }
}

/// What a sequence was made of: a run that compares nothing but refusals would prove nothing.
#[derive(Debug, Default)]
struct Tally {
    txns: u64,
    succeeded: u64,
    reads: u64,
    found: u64,
    refused: u64,
    watches: u64,
    events: usize,
    revision: i64,
}

impl Tally {
    fn count(&mut self, step: &Step, answer: &Answer) {
        self.txns += u64::from(matches!(step, Step::Txn(_)));
        self.watches += u64::from(matches!(step, Step::Watch(..)));
        match answer {
            Answer::Txn(txn) => self.succeeded += u64::from(txn.succeeded),
            Answer::Range(range) => {
                self.reads += 1;
                self.found += range.kvs.len() as u64;
            }
            Answer::Refused(..) => self.refused += 1,
            _ => {}
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} txns ({} succeeded), {} reads of {} keys, {} refusals, {} watches, {} events, to \
             Revision {}",
            self.txns,
            self.succeeded,
            self.reads,
            self.found,
            self.refused,
            self.watches,
            self.events,
            self.revision
        )
    }
}

/// A step or an answer as one readable line: fields at their defaults are left out, long values abridged.
fn brief(what: &impl fmt::Debug) -> String {
    let text = format!("{what:?}");
    let unset = |part: &str| {
        let (name, value) = part.split_once(": ").unwrap_or_default();
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        plain && matches!(value, "0" | "false" | "b\"\"" | "[]")
    };
    let kept: Vec<String> = text
        .split(", ")
        .filter(|part| !unset(part))
        .map(abridged)
        .collect();
    kept.join(", ")
}

/// A part of a line, its middle left out if it is long.
fn abridged(part: &str) -> String {
    let letters: Vec<char> = part.chars().collect();
    if letters.len() <= 160 {
        return part.to_owned();
    }
    let (start, end) = (&letters[..70], &letters[letters.len() - 30..]);
    let (start, end): (String, String) = (start.iter().collect(), end.iter().collect());
    format!("{start} ... {} letters ... {end}", letters.len() - 100)
}

/// How long a fresh server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);
