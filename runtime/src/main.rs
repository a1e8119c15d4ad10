//! `pintle-runtime` as an executable of its own, for tests and benchmarks; a node has it in `pintle-services`.
fn main() -> anyhow::Result<()> {
    sys::service::run(8, runtime::run())
}
