use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use machine::cri::KeyValue;

use super::expand::expand;

/// A container's variables, in the order in which they reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl From<BTreeMap<String, String>> for Environment {
    fn from(variables: BTreeMap<String, String>) -> Self {
        Self { variables }
    }
}

impl Environment {
    /// As CRI takes them.
    #[must_use]
    pub fn to_cri(&self) -> Vec<KeyValue> {
        let pairs = self.variables.iter();
        pairs.map(|(key, value)| KeyValue { key: key.clone(), value: value.clone().into_bytes() }).collect()
    }

    /// The value of one variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }
}

/// The container's command and arguments with `$(VAR)` references replaced.
#[must_use]
pub fn command_and_args(container: &Container, environment: &Environment) -> (Vec<String>, Vec<String>) {
    let expanded = |list: &Option<Vec<String>>| {
        let lookup = |name: &str| environment.get(name).map(str::to_owned);
        list.iter().flatten().map(|text| expand(text, lookup)).collect()
    };
    (expanded(&container.command), expanded(&container.args))
}
