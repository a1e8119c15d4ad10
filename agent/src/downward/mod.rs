//! What a pod is told of itself: fields and resources (downward API), and `$(VAR)` references to its variables. Pure.
mod environment;
mod expand;
mod fields;

pub use environment::{Environment, command_and_args};
pub use expand::{expand, expand_strict};
pub use fields::{FieldError, PodFacts, field_value, metadata_value, resource_value};
