//! Placeholder; see proto.rs for `gen-proto`.
mod proto;
fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("gen-proto") => proto::generate(),
        _ => anyhow::bail!("unknown command; try `cargo xtask --help`"),
    }
}
