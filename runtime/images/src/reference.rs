//! Image names, read as the distribution project's reference grammar has them.
use std::fmt;

/// Where image names that name no registry belong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShortNames {
    /// The registry's host; absent: such names are found on this node only.
    pub host: Option<String>,
    /// What stands before names of one component.
    pub prefix: String,
}

/// The registry part of short names when no registry is configured for them; nothing is pulled from it.
const LOCAL: &str = "localhost";

/// A full image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Registry host and optional port.
    pub host: String,
    pub path: String,
    /// Set unless `digest` is: a name with both is known by its digest.
    pub tag: Option<String>,
    pub digest: Option<String>,
    /// False for a short name that no registry is configured for.
    pub pullable: bool,
}

/// Why a name is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image name {name:?}: {problem}; write [registry/]path[:tag][@sha256:digest] in lower case")]
pub struct BadReference {
    name: String,
    problem: &'static str,
}

impl Reference {
    /// Reads a name; `latest` is the tag of a name without tag and digest.
    ///
    /// # Errors
    /// When the text is no image name.
    pub fn parse(name: &str, short: &ShortNames) -> Result<Self, BadReference> {
        let bad = |problem| BadReference { name: name.chars().take(300).collect(), problem };
        if name.len() > 1024 {
            return Err(bad("longer than 1024 bytes"));
        }
        if name.len() == 64 && is_hex(name) {
            return Err(bad("64 hex digits are an image id"));
        }
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(bad("what follows @ is no digest")),
            None => (name, None),
        };
        let (named, tag) = match rest.rsplit_once(':') {
            Some((named, tag)) if !tag.contains('/') => {
                if !is_tag(tag) {
                    return Err(bad("what follows : is no tag"));
                }
                (named, Some(tag.to_owned()))
            }
            _ => (rest, None),
        };
        let (host, path, pullable) = match named.split_once('/') {
            Some((first, path)) if is_host(first) => (first.to_owned(), path.to_owned(), true),
            _ if short.prefix.is_empty() || named.contains('/') => {
                let host = short.host.clone();
                (host.clone().unwrap_or(LOCAL.into()), named.to_owned(), host.is_some())
            }
            _ => {
                let host = short.host.clone();
                (host.clone().unwrap_or(LOCAL.into()), format!("{}/{named}", short.prefix), host.is_some())
            }
        };
        if !valid_host(&host) {
            return Err(bad("the registry's host is malformed"));
        }
        if host.len() + 1 + path.len() > 255 {
            return Err(bad("registry and path are longer than 255 bytes"));
        }
        if !path.split('/').all(is_component) {
            return Err(bad("a part of the path is malformed"));
        }
        let tag = if digest.is_some() { None } else { Some(tag.unwrap_or_else(|| "latest".into())) };
        Ok(Self { host, path, tag, digest, pullable })
    }

    /// `host/path`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// What follows `manifests/` in a registry's API.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.digest.is_some() { '@' } else { ':' };
        write!(f, "{}/{}{separator}{}", self.host, self.path, self.version())
    }
}

/// Whether the first part of a name is a registry's host.
fn is_host(first: &str) -> bool {
    first == LOCAL || first.contains(['.', ':']) || first.chars().any(|c| c.is_ascii_uppercase())
}

fn valid_host(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let port_ok = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse::<std::net::Ipv6Addr>().is_ok() && port_ok;
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(|b| word(*b)) || !bytes.last().is_some_and(|b| word(*b)) {
        return false;
    }
    bytes
        .split(|b| word(*b))
        .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether the text is a sha256 digest, the one algorithm that registries use.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && is_hex(hex))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn full(name: &str) -> String {
        let short = ShortNames { host: Some("hub.example".into()), prefix: "library".into() };
        Reference::parse(name, &short).map_or_else(|e| e.problem.into(), |r| r.to_string())
    }

    #[test]
    fn names_become_full_as_the_reference_grammar_has_it() {
        for (name, expected) in [
            ("busybox", "hub.example/library/busybox:latest"),
            ("team/app:v1", "hub.example/team/app:v1"),
            ("localhost/app", "localhost/app:latest"),
            ("reg.example:5000/a/b__c/d-e.f:V1.0", "reg.example:5000/a/b__c/d-e.f:V1.0"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("REG/app", "REG/app:latest"),
        ] {
            assert_eq!(full(name), expected);
        }
        assert_eq!(full(&format!("r.io/a:tag@sha256:{HEX}")), format!("r.io/a@sha256:{HEX}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            "",
            "A b",
            "app:",
            "app:-x",
            "app@sha256:12",
            "/app",
            "app/",
            "a//b",
            "a.example/App",
            "a_-b",
            "a___b",
            "r.io:port/app",
            "-r.io/app",
            "[::1/app",
            "r.io/../etc",
            HEX,
            "app\n",
            "r.io/a@sha512:00",
        ] {
            assert!(Reference::parse(name, &ShortNames::default()).is_err(), "{name}");
        }
    }

    #[test]
    fn a_short_name_without_a_registry_stays_on_the_node() {
        let reference = Reference::parse("demo", &ShortNames::default()).unwrap();
        assert_eq!((reference.to_string().as_str(), reference.pullable), ("localhost/demo:latest", false));
        assert!(Reference::parse("localhost/demo", &ShortNames::default()).unwrap().pullable);
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_back_the_same(text in "\\PC{0,80}") {
            if let Ok(reference) = Reference::parse(&text, &ShortNames::default()) {
                let again = Reference::parse(&reference.to_string(), &ShortNames::default()).unwrap();
                prop_assert_eq!(again.to_string(), reference.to_string());
            }
        }

        #[test]
        fn names_by_the_grammar_are_read(host in "[a-z]{1,8}\\.[a-z]{2,3}(:[0-9]{1,5})?", path in "[a-z0-9]{1,9}((/|\\.|_|__|-)[a-z0-9]{1,9}){0,4}", tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}") {
            let name = format!("{host}/{path}:{tag}");
            prop_assert_eq!(Reference::parse(&name, &ShortNames::default()).unwrap().to_string(), name);
        }
    }
}
