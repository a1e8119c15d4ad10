//! Stands before Debian's crun 1.8.1, which refuses specs of a version other than 1.0: says 1.0.2 instead, and becomes crun.
use std::os::unix::process::CommandExt;
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let bundle = arguments.iter().position(|argument| argument == "--bundle").and_then(|at| arguments.get(at + 1));
    if let Some(bundle) = bundle {
        let path = Path::new(bundle).join("config.json");
        if let Some(text) = std::fs::read_to_string(&path).ok().and_then(|text| older(&text)) {
            let _ = std::fs::write(&path, text);
        }
    }
    let here = std::env::current_exe().unwrap_or_default();
    let crun = here.with_file_name("debian/usr/bin/crun");
    let error = std::process::Command::new(crun).args(arguments).exec();
    eprintln!("run crun: {error}");
    std::process::exit(1);
}

fn older(text: &str) -> Option<String> {
    let (before, rest) = text.split_once("\"ociVersion\":\"")?;
    let (_, after) = rest.split_once('"')?;
    Some(format!("{before}\"ociVersion\":\"1.0.2\"{after}"))
}
