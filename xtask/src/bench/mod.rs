//! `cargo xtask bench`: figures beside their targets and those of the peers. A busy machine gives bad figures, not failures.
mod boot;
mod figures;
mod runtime;

use clap::Subcommand;

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// A cluster in virtual machines: boot, memory, processor time, pods, image sizes.
    Boot(boot::Arguments),
    /// The container runtime beside containerd with runc and with crun, driven by the same CRI client on this host.
    Runtime(runtime::Arguments),
    /// One contender of `runtime`, inside of its namespaces.
    #[command(hide = true)]
    Contender(runtime::contender::Arguments),
}

/// How figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
}

/// Measures.
///
/// # Errors
/// When what is measured cannot be built or does not work.
pub fn bench(what: &Bench) -> anyhow::Result<()> {
    match what {
        Bench::Boot(arguments) => boot::boot(arguments),
        Bench::Runtime(arguments) => runtime::run(arguments),
        Bench::Contender(arguments) => runtime::contender::main(arguments),
    }
}
