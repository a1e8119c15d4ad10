//! What runs found joins the repository's corpus, if it covers what nothing there does.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::run::files;
use super::{Target, work};

/// The largest input that the repository takes.
const MOST_BYTES: u64 = 4096;

impl Target {
    /// Merges; `minimize`: the corpus is made anew of the fewest inputs, and keeps those that someone named.
    pub(super) fn merge(&self, minimize: bool) -> Result<()> {
        let chosen = work().join("merge").join(&self.name);
        if chosen.exists() {
            std::fs::remove_dir_all(&chosen)?;
        }
        std::fs::create_dir_all(&chosen)?;
        let kept = files(&self.corpus)?;
        // Named inputs stay whatever happens, so others need not cover what they do.
        for path in kept.iter().filter(|path| !minimize || is_named(path)) {
            std::fs::copy(path, chosen.join(file_name(path)?))
                .with_context(|| format!("copy {}", path.display()))?;
        }
        let log = work().join("logs").join(format!("{}.merge.log", self.name));
        let (passed, _) = self.start(&log, |command| {
            // How often an edge is taken tells inputs apart by the thousand; which edges are is what a corpus is for.
            command.args(["-merge=1", "-use_counters=0"]).arg(format!("-max_len={MOST_BYTES}"));
            command.arg(&chosen).arg(&self.corpus).arg(&self.found);
        })?;
        ensure!(passed, "merging failed; see {}", log.display());
        let (mut added, mut removed) = (0, 0);
        let chosen = files(&chosen)?;
        let new = by_name(&chosen)?;
        for (name, path) in &new {
            let target = self.corpus.join(name);
            if !target.exists() {
                std::fs::copy(path, &target).with_context(|| format!("write {}", target.display()))?;
                added += 1;
            }
        }
        for path in kept.iter().filter(|path| minimize && !is_named(path)) {
            if !new.contains_key(&file_name(path)?) {
                std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
                removed += 1;
            }
        }
        println!("{}: {added} inputs added to {}, {removed} removed", self.name, self.corpus.display());
        Ok(())
    }
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.with_context(|| format!("the name of {}", path.display()))?.to_owned())
}

fn by_name(paths: &[PathBuf]) -> Result<BTreeMap<String, &PathBuf>> {
    paths.iter().map(|path| Ok((file_name(path)?, path))).collect()
}

/// libFuzzer names inputs after their SHA-1.
fn is_named(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.len() != 40 || !name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_with_a_name_of_their_own_are_told_from_found_ones() {
        assert!(is_named(Path::new("corpus/spdy_frames/ping")));
        assert!(!is_named(Path::new("corpus/spdy_frames/da39a3ee5e6b4b0d3255bfef95601890afd80709")));
    }
}
