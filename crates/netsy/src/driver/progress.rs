//! Progress of a restore: a bar on a terminal, a log line every few seconds elsewhere.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use rules::revision::Revision;
use tracing::info;

const LINE_EVERY: Duration = Duration::from_secs(2);

/// How far a restore has come.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    line_at: Instant,
}

impl Progress {
    /// Nothing restored yet.
    pub(super) fn new() -> Progress {
        let style = ProgressStyle::with_template("{spinner} restoring: revision {pos} ({rate}/s)");
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            if let Ok(style) = style {
                bar.set_style(style.with_key("rate", rate));
            }
            bar
        });
        Progress {
            bar,
            began: Instant::now(),
            line_at: Instant::now(),
        }
    }

    /// The log reaches this Revision.
    pub(super) fn reached(&mut self, revision: Revision) {
        if let Some(bar) = &self.bar {
            bar.set_position(revision.0);
        } else if self.line_at.elapsed() >= LINE_EVERY {
            self.line_at = Instant::now();
            info!(revision = revision.0, "restoring");
        }
    }

    /// The log is restored.
    pub(super) fn done(&mut self, revision: Revision) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(revision = revision.0, milliseconds, "restored the log");
    }
}

/// How fast it goes, without decimals.
fn rate(state: &ProgressState, text: &mut dyn Write) {
    // A bar that cannot be drawn stops nothing.
    let _ = write!(text, "{}", HumanCount(state.per_sec() as u64));
}
