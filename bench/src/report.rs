//! What is printed of measurements, and the file of raw results behind it.
//! One line of JSON per load and run; the tables show medians over the runs, and the spread.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::load::Measured;

/// One load at one server in one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) server: &'static str,
    pub(crate) run: usize,
    #[serde(flatten)]
    pub(crate) measured: Measured,
}

/// Appends rows to a file as they come.
pub(crate) struct Raw(File);

impl Raw {
    pub(crate) fn open(path: &Path) -> Result<Raw> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let file = File::options().create(true).append(true).open(path);
        Ok(Raw(
            file.with_context(|| format!("opening {}", path.display()))?
        ))
    }

    pub(crate) fn write(&mut self, row: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.0, row)?;
        self.0.write_all(b"\n").context("writing the raw results")
    }
}

/// The column heads of [`line`].
pub(crate) const HEAD: &str = "shape             clients  server      ops/s   p50 ms   p99 ms  max ms  CPU us/op  server%  client%  errors";

/// One measurement in one line.
pub(crate) fn line(server: &str, measured: &Measured) -> String {
    let milli = |micros: u64| micros as f64 / 1000.0;
    format!(
        "{:<17} {:>7}  {:<6} {:>10.0} {:>8.2} {:>8.2} {:>7.1} {:>10.1} {:>8.0} {:>8.0} {:>7}",
        format!("{:?}", measured.shape).to_lowercase(),
        measured.clients,
        server,
        measured.ops_per_second,
        milli(measured.p50_micros),
        milli(measured.p99_micros),
        milli(measured.max_micros),
        measured.cpu_micros_per_op,
        measured.server_cpu_percent,
        measured.client_cpu_percent,
        measured.errors,
    )
}

/// The middle one; the mean of the middle two. 0 for nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Smallest and largest.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(Vec::new()).abs() < f64::EPSILON);
    }
}
