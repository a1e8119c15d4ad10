//! `pintle-launch`: one container or one further process in one, see `containers::launch`.
fn main() -> std::process::ExitCode {
    containers::launch::main()
}
