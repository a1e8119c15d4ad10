//! Errors with their causes, on one line.
use std::error::Error;
use std::fmt;

/// Prints an error and its causes, `what: why: why`. What ends in its cause's words leaves them to the cause, so nothing is said twice.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self.0, |error| (error.to_string(), error.source())))
    }
}

/// As [`Chain`], for callers who know more of some errors: `say` gives the words of one error and what caused it.
pub fn chain<'a, F>(error: &'a (dyn Error + 'static), say: F) -> String
where
    F: Fn(&'a (dyn Error + 'static)) -> (String, Option<&'a (dyn Error + 'static)>),
{
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let (mut said, below) = say(cause);
        if let Some(own) = below.and_then(|below| said.strip_suffix(&below.to_string())) {
            said.truncate(own.trim_end_matches([':', ' ']).len());
        }
        if !said.is_empty() && !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&said);
        next = below;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{say}")]
    struct Said {
        say: &'static str,
        source: Option<Box<Said>>,
    }

    fn said(say: &'static str, source: Option<Said>) -> Said {
        Said { say, source: source.map(Box::new) }
    }

    #[test]
    fn causes_follow_and_nothing_is_said_twice() {
        let error =
            said("pull image: connect: refused", Some(said("connect: refused", Some(said("refused", None)))));
        assert_eq!(Chain(&error).to_string(), "pull image: connect: refused");
        let error = said("write /a", Some(said("No space left on device", None)));
        assert_eq!(Chain(&error).to_string(), "write /a: No space left on device");
    }
}
