//! Small disks: each Node's disk is a tmpfs of its own, so that a nemesis can fill it. Needs root.
//!
//! A disk is filled by one file beside the Node's own, and is free again when that is deleted.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// What fills a disk.
const BALLAST: &str = "ballast";

/// Mounted disks, unmounted when this is dropped.
#[derive(Debug)]
pub(super) struct Disks(Vec<PathBuf>);

impl Disks {
    /// Mounts `mib` MiB at each of `places`.
    pub(super) fn mount(places: Vec<PathBuf>, mib: u64) -> Result<Disks> {
        let mut disks = Disks(Vec::new());
        for place in places {
            std::fs::create_dir_all(&place)?;
            let size = format!("size={mib}m");
            run(
                "mount",
                &["-t", "tmpfs", "-o", &size, "netsy-storm"],
                &place,
            )
            .context("small disks are mounted, which needs root")?;
            disks.0.push(place);
        }
        Ok(disks)
    }

    /// Leaves no room on the disk of Node `index`.
    pub(super) fn fill(&self, index: usize) -> Result<()> {
        let mut ballast = std::fs::File::create(self.0[index].join(BALLAST))?;
        // As much as fits, to the last byte.
        for piece in [1 << 20, 4096, 1] {
            let zeros = vec![0; piece];
            while ballast.write_all(&zeros).is_ok() {}
        }
        Ok(())
    }

    /// Gives the room back.
    pub(super) fn free(&self, index: usize) -> Result<()> {
        match std::fs::remove_file(self.0[index].join(BALLAST)) {
            // It went with the disk.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.context("emptying a small disk"),
        }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for place in &self.0 {
            if let Err(error) = run("umount", &["--lazy"], place) {
                println!("{error:#}");
            }
        }
    }
}

fn run(program: &str, arguments: &[&str], place: &Path) -> Result<()> {
    let mut command = Command::new(program);
    let status = command.args(arguments).arg(place).status();
    let status = status.with_context(|| format!("starting {program}"))?;
    ensure!(status.success(), "{program} {} failed", place.display());
    Ok(())
}
