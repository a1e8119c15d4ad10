//! Logs of pods that are gone, and links to logs that are gone (pkg/kubelet/kuberuntime, container garbage collection).
use std::path::{Path, PathBuf};

/// The log folders (`<namespace>_<name>_<uid>`), each with the uid of its pod.
pub fn folders(pods: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(pods).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name();
        let (_, uid) = name.to_str()?.rsplit_once('_')?;
        Some((uid.to_owned(), entry.path()))
    });
    named.collect()
}

/// Removes the log folders of pods that are gone, and links that lead nowhere.
pub fn remove(dead: &[PathBuf], links: &Path) {
    for folder in dead {
        if let Err(error) = std::fs::remove_dir_all(folder) {
            tracing::debug!("remove {}: {error}", folder.display());
        }
    }
    for entry in std::fs::read_dir(links).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_symlink() && !path.exists() {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_go_with_their_pods_and_links_with_their_logs() {
        let folder = tempfile::tempdir().unwrap();
        let (pods, links) = (folder.path().join("pods"), folder.path().join("containers"));
        std::fs::create_dir(&links).unwrap();
        for (pod, link) in [("default_web_1", "web.log"), ("default_gone_2", "gone.log")] {
            std::fs::create_dir_all(pods.join(pod)).unwrap();
            std::fs::write(pods.join(pod).join("0.log"), "").unwrap();
            std::os::unix::fs::symlink(pods.join(pod).join("0.log"), links.join(link)).unwrap();
        }
        let dead = folders(&pods).into_iter().filter(|(uid, _)| uid != "1").map(|(_, folder)| folder);
        remove(&dead.collect::<Vec<_>>(), &links);
        let names = |folder: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(folder).unwrap().flatten();
            entries.map(|e| e.file_name().into_string().unwrap()).collect()
        };
        assert_eq!(names(&pods), ["default_web_1"]);
        assert_eq!(names(&links), ["web.log"]);
    }
}
