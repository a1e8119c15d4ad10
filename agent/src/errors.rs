//! Errors as the log and users read them.

/// An error with its causes, in one line. What a cause's wrapper has said already is not said twice, and of a refusal by the API server only its message.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    node_kit::errors::chain(error, |cause| match cause.downcast_ref() {
        Some(kube::Error::Api(status)) => (format!("{} ({})", status.message, status.code), None),
        _ => (cause.to_string(), cause.source()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("post status: {0}")]
    struct Wrapped(#[source] kube::Error);

    #[test]
    fn a_refusal_is_its_message_and_nothing_is_said_twice() {
        let status = kube::core::Status::failure("pods \"a\" not found", "NotFound").with_code(404);
        let refused = kube::Error::Api(status.boxed());
        assert_eq!(chain(&refused), "pods \"a\" not found (404)");
        assert_eq!(chain(&Wrapped(refused)), "post status: pods \"a\" not found (404)");
        let error = Wrapped(kube::Error::Service("connection refused".into()));
        assert_eq!(chain(&error), "post status: ServiceError: connection refused");
    }
}
