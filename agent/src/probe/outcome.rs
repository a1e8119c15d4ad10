/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Counts as a success; the text is worth an event.
    Warning(String),
    Failure(String),
    /// The probe itself could not be run: says nothing about the container.
    Error(String),
}
