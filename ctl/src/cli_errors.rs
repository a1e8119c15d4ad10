//! What a machine refused, in words for a person.
use anyhow::anyhow;

/// A status as a person reads it, with what to do.
pub fn explain(status: tonic::Status) -> anyhow::Error {
    let hint = match status.code() {
        tonic::Code::PermissionDenied => "; use a client config with the role",
        tonic::Code::Unavailable => "; `pintle health` waits until the machine answers",
        _ => "",
    };
    anyhow!("{}{hint}", status.message())
}
