//! Control groups of our own, to tell whose processor time it was.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::machine::field;

/// One below [`crate::cgroup_parent`], which goes with it at the end.
pub struct Cgroup {
    name: String,
    path: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    pub fn make(name: &str) -> Outcome<Self> {
        let mount = Path::new("/sys/fs/cgroup");
        let is_v2 = mount.join("cgroup.controllers").exists();
        let hierarchy = if is_v2 { mount.to_owned() } else { mount.join("cpuacct") };
        let name = format!("{}/{name}", crate::cgroup_parent());
        let path = hierarchy.join(name.trim_start_matches('/'));
        fs::create_dir_all(&path)?;
        Ok(Self { name, path, is_v2 })
    }

    /// By its path in the hierarchy, as a request or a spec names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn take(&self, pid: u32) -> Outcome<()> {
        Ok(fs::write(self.path.join("cgroup.procs"), pid.to_string())?)
    }

    pub fn pids(&self) -> Outcome<Vec<u32>> {
        let text = fs::read_to_string(self.path.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Processor time of all that ever were in it or below it, in milliseconds.
    pub fn cpu_ms(&self) -> Outcome<f64> {
        if self.is_v2 {
            let microseconds = field(&fs::read_to_string(self.path.join("cpu.stat"))?, "usage_usec")?;
            return Ok(microseconds as f64 / 1e3);
        }
        let nanoseconds: u64 = fs::read_to_string(self.path.join("cpuacct.usage"))?.trim().parse()?;
        Ok(nanoseconds as f64 / 1e6)
    }
}
