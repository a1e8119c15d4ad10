//! `pintle-launch`: one container or one further process in one, see `runtime::launch`.
fn main() -> std::process::ExitCode {
    runtime::launch::main()
}
