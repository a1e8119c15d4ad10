//! Logs of pods that are gone, and links to logs that are gone (pkg/kubelet/kuberuntime, container garbage collection).
use std::path::Path;

/// Removes the log folders (`<namespace>_<name>_<uid>`) of pods that are not there, and links that lead nowhere.
pub fn remove(pods: &Path, links: &Path, is_there: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(pods).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let uid = name.to_str().and_then(|name| name.rsplit_once('_')).map(|(_, uid)| uid);
        if uid.is_some_and(|uid| !is_there(uid))
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::debug!("remove {}: {error}", entry.path().display());
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
        remove(&pods, &links, |uid| uid == "1");
        let names = |folder: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(folder).unwrap().flatten();
            entries.map(|e| e.file_name().into_string().unwrap()).collect()
        };
        assert_eq!(names(&pods), ["default_web_1"]);
        assert_eq!(names(&links), ["web.log"]);
    }
}
