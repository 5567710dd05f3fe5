//! How a process ends: the exit codes, and the last line an operator reads.
//!
//! 0 is done: a Node that was told to stop has made every acknowledged write durable. 1 failed at work, and
//! starting again may help. 2 is a mistake in the command line, the configuration or a file it names, and
//! starting again does not help. 101 is a fault of Netsy: a bug; the next start recovers as after a crash. 130
//! and 143 are ends at once, by a second SIGINT or SIGTERM. docs/OPERATING.md tells operators the same.

use std::fmt;

/// Whether starting again may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Code 1: it may.
    Failed,
    /// Code 2: somebody has to change something first.
    Setup,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Setup => 2,
        }
    }
}

/// The exit code after a panic.
pub const FAULT: i32 = 101;

/// Why a command or a Node ended: what was attempted and on what, why it failed, and what to do.
///
/// Shows as one line: `listen for clients on \`127.0.0.1:2379\`: address in use; stop ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunError {
    /// What was attempted, on what: an act in the imperative, names in backticks.
    pub attempted: String,
    /// Why it failed.
    pub why: String,
    /// What the operator can do.
    pub remedy: String,
    /// Whether starting again may help.
    pub exit: Exit,
}

impl RunError {
    /// A failure at work (code 1).
    pub fn failed(
        attempted: impl Into<String>,
        why: impl fmt::Display,
        remedy: impl Into<String>,
    ) -> RunError {
        RunError {
            attempted: attempted.into(),
            why: why.to_string(),
            remedy: remedy.into(),
            exit: Exit::Failed,
        }
    }

    /// A mistake in what the operator asked for (code 2).
    pub fn setup(
        attempted: impl Into<String>,
        why: impl fmt::Display,
        remedy: impl Into<String>,
    ) -> RunError {
        RunError {
            exit: Exit::Setup,
            ..RunError::failed(attempted, why, remedy)
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.attempted, self.why, self.remedy)
    }
}

impl std::error::Error for RunError {}
