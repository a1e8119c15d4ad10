//! The program of the cases' only test image. In a privileged pod it looks into its node (`snapshot`, `cgroups`, `sequence`), kills or stops
//! services (`kill`, `stop`) and asks them to fail (`hook`); in a plain pod it is the workload: it prints, eats memory, ends with a code or by a signal, answers and asks; or it is the enemy (`hostile`). Every
//! command that returns text can also be asked over HTTP from `serve`, as `/COMMAND?WORD&WORD`.
mod archive;
mod cgroups;
mod fetch;
mod hostile;
mod logs;
mod look;
mod processes;
mod serve;
mod workload;

use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

/// Where the node's root is mounted in a pod that looks into its node.
const HOST: &str = "/host";

const USAGE: &str = "usage: node-inspector serve [PORT] | snapshot | rules | kill NAME... | stop NAME... | hook SERVICE WORD... | cgroups POD-UID | sequence NAMESPACE POD CONTAINER \
    | read FILE | append FILE TEXT | fetch URL | resolve NAME | echo | terminal | count PER-SECOND [LINES] | eat MIB [SECONDS] | exit CODE [SECONDS] | terminate SECONDS | hostile WHAT";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            eprintln!("{fault:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<u8> {
    let [program, words @ ..] = words else { bail!(USAGE) };
    // `kubectl cp` runs tar in the container.
    if program.rsplit('/').next() == Some("tar") {
        return archive::tar(words).map(|()| 0);
    }
    match words {
        ["serve"] => serve::serve(8080).map(|()| 0),
        ["serve", port] => serve::serve(port.parse().context("the port")?).map(|()| 0),
        ["echo"] => workload::echo().map(|()| 0),
        ["terminal"] => workload::terminal().map(|()| 0),
        ["count", rate] => workload::count(rate, u64::MAX).map(|()| 0),
        ["count", rate, lines] => workload::count(rate, lines.parse()?).map(|()| 0),
        ["eat", mebibytes] => workload::eat(mebibytes.parse()?, 0.0),
        ["eat", mebibytes, seconds] => workload::eat(mebibytes.parse()?, seconds.parse()?),
        ["terminate", seconds] => workload::terminate(seconds.parse()?),
        ["hostile", words @ ..] => hostile::run(words),
        ["exit", code] => Ok(code.parse()?),
        ["exit", code, seconds] => workload::exit(code.parse()?, seconds.parse()?),
        ["rules"] => Err(look::exec_nft()),
        words => {
            println!("{}", answer(words)?.trim_end());
            Ok(0)
        }
    }
}

/// Asks a service of the node to fail, as `node-kit/src/hooks.rs` reads it.
fn hook(service: &str, line: &str) -> Result<()> {
    let folder = format!("{HOST}/run/pintle/test-hooks");
    let part = format!("{folder}/{service}.part");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {folder}"))?;
    // Each service removes its own file, and not all of them are root's.
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))
        .with_context(|| format!("open {folder} to all"))?;
    std::fs::write(&part, line).with_context(|| format!("write {part}"))?;
    // Whole at once: the service looks at any time.
    std::fs::rename(&part, format!("{folder}/{service}")).with_context(|| format!("rename {part}"))
}

/// A command whose result is a text.
fn answer(words: &[&str]) -> Result<String> {
    match words {
        ["snapshot"] => look::snapshot().map(|value| value.to_string()),
        ["kill", names @ ..] => processes::signal(Signal::KILL, names),
        ["stop", names @ ..] => processes::signal(Signal::STOP, names),
        ["hook", service, words @ ..] => hook(service, &words.join(" ")).map(|()| String::new()),
        ["cgroups", uid] => cgroups::of_pod(uid).map(|value| value.to_string()),
        ["sequence", namespace, pod, container] => {
            logs::sequence(namespace, pod, container).map(|value| value.to_string())
        }
        ["read", file] => std::fs::read_to_string(file).with_context(|| format!("read {file}")),
        ["append", file, text] => workload::append(file, text).map(|()| String::new()),
        ["fetch", url] => fetch::fetch(url),
        ["resolve", name] => fetch::resolve(name),
        _ => bail!(USAGE),
    }
}
