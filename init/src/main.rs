//! PID 1. In the initramfs it is the first stage, on the verified root the second; the kernel also runs it to load modules.
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(module) = init::requested_module(&arguments) {
        let failures = init::Modules::of_running_kernel().load(&[module.to_owned()]);
        return if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if std::process::id() != 1 {
        eprintln!("pintle-init is a machine's first process; `pintle` manages a running machine");
        return ExitCode::FAILURE;
    }
    if Path::new(machine::paths::BIN).is_dir() { init::run_stage2() } else { init::run_stage1() }
}
