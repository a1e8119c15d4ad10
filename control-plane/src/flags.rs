//! Command lines of components.
use machine::config::Component;

/// Flags in order; a component's own replace those of the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags(Vec<(String, String)>);

impl Flags {
    /// Adds or replaces one flag.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
        self
    }

    /// The command line: program, then `--name=value`, sorted, the component's extra flags laid over.
    #[must_use]
    pub fn command(&self, program: &str, component: &Component) -> Vec<String> {
        let mut all = self.clone();
        for (name, value) in &component.extra_args {
            all.set(name, value);
        }
        all.0.sort();
        let flags = all.0.into_iter().map(|(name, value)| format!("--{name}={value}"));
        std::iter::once(program.to_owned()).chain(flags).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_flags_replace_and_add() {
        let mut flags = Flags::default();
        flags.set("v", "1").set("bind-address", "127.0.0.1");
        let component = Component {
            extra_args: [("v".into(), "4".into()), ("profiling".into(), "false".into())].into(),
            ..Component::default()
        };
        assert_eq!(
            flags.command("kube-x", &component),
            ["kube-x", "--bind-address=127.0.0.1", "--profiling=false", "--v=4"]
        );
    }
}
