/// A container to stop, and why.
pub(super) struct Kill {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) message: String,
    pub(super) reason: Option<&'static str>,
}
