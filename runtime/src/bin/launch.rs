//! `pintle-launch`: one libcontainer call, see `runtime::launch`.
fn main() -> std::process::ExitCode {
    runtime::launch::main()
}
