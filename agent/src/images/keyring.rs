//! Which of a pull secret's credentials fit an image, by the rules of the kubelet's keyring (k8s.io/kubernetes/pkg/credentialprovider/keyring.go).
use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;
use machine::cri::AuthConfig;

use super::registry_of;

/// Names of Docker Hub in images; its credentials stand under the second, as `docker login` and `kubectl create secret docker-registry` write them
/// (`https://index.docker.io/v1/`).
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];

/// The credentials of a pull secret that fit an image, the most specific registry path first.
#[must_use]
pub fn from_secret(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let modern = data.and_then(|d| d.get(".dockerconfigjson"));
    let legacy = data.and_then(|d| d.get(".dockercfg"));
    let parse = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let auths = match (modern, legacy) {
        (Some(bytes), _) => parse(&bytes.0).and_then(|v| v.get("auths").cloned()),
        (None, Some(bytes)) => parse(&bytes.0),
        (None, None) => None,
    };
    let Some(serde_json::Value::Object(auths)) = auths else { return Vec::new() };
    let fitting = |fits: fn(&Place<'_>, &str) -> bool| -> Vec<AuthConfig> {
        let mut found: Vec<(usize, AuthConfig)> = auths
            .iter()
            .map(|(server, entry)| (server, Place::of(server), entry))
            .filter(|(_, place, _)| fits(place, image))
            .filter_map(|(server, place, entry)| Some((place.length(), auth(server, entry)?)))
            .collect();
        found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        found.into_iter().map(|(_, auth)| auth).collect()
    };
    let named = fitting(|place, image| place.fits(image));
    if named.is_empty() && HUB.contains(&registry_of(image)) {
        fitting(|place, _| place.is_hub())
    } else {
        named
    }
}

/// What a credential is for: a host, where each of its labels may have wildcards, with its port, and the beginning of a repository's path.
struct Place<'a> {
    host: &'a str,
    port: Option<&'a str>,
    path: &'a str,
}

impl<'a> Place<'a> {
    fn of(server: &'a str) -> Self {
        let server =
            server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
        let (authority, path) = server.split_once('/').unwrap_or((server, ""));
        // The address of a registry's API stands for the registry.
        let path = ["v1", "v2"]
            .into_iter()
            .find_map(|version| {
                path.strip_prefix(version).filter(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .unwrap_or(path);
        let (host, port) = host_and_port(authority);
        Self { host, port, path: path.trim_matches('/') }
    }

    fn length(&self) -> usize {
        self.host.len() + self.path.len()
    }

    fn is_hub(&self) -> bool {
        self.port.is_none() && self.path.is_empty() && HUB.contains(&self.host)
    }

    fn fits(&self, image: &str) -> bool {
        let registry = registry_of(image);
        let rest = image.strip_prefix(registry).unwrap_or(image).trim_start_matches('/');
        let (host, port) = host_and_port(registry);
        let (wanted, labels): (Vec<_>, Vec<_>) = (self.host.split('.').collect(), host.split('.').collect());
        port == self.port
            && wanted.len() == labels.len()
            && wanted
                .iter()
                .zip(&labels)
                .all(|(pattern, label)| matches(pattern.as_bytes(), label.as_bytes()))
            && (self.path.is_empty()
                || rest
                    .strip_prefix(self.path)
                    .is_some_and(|r| r.is_empty() || r.starts_with(['/', ':', '@'])))
    }
}

fn host_and_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Whether a label is of a pattern in which `*` stands for any characters and `?` for one.
fn matches(pattern: &[u8], label: &[u8]) -> bool {
    match pattern.split_first() {
        None => label.is_empty(),
        Some((b'*', rest)) => (0..=label.len()).any(|taken| matches(rest, &label[taken..])),
        Some((b'?', rest)) => !label.is_empty() && matches(rest, &label[1..]),
        Some((byte, rest)) => label.first() == Some(byte) && matches(rest, &label[1..]),
    }
}

fn auth(server: &str, entry: &serde_json::Value) -> Option<AuthConfig> {
    let field = |name: &str| entry.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let (mut username, mut password) = (field("username"), field("password"));
    if username.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(field("auth")).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, secret) = text.split_once(':')?;
        (username, password) = (user.to_owned(), secret.trim_matches('\0').to_owned());
    }
    Some(AuthConfig {
        username,
        password,
        server_address: server.to_owned(),
        identity_token: field("identitytoken"),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(auths: serde_json::Value, image: &str) -> Vec<String> {
        let config = serde_json::json!({"auths": auths}).to_string().into_bytes();
        let data = [(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(config))];
        let secret = Secret { data: Some(data.into()), ..Default::default() };
        from_secret(&secret, image).into_iter().map(|auth| auth.username).collect()
    }

    #[test]
    fn the_most_specific_credential_comes_first() {
        let users = |image| {
            let auths = serde_json::json!({
                "registry.test": {"auth": "YTpi"},
                "https://registry.test/team": {"username": "t", "password": "p"},
                "other.test": {"auth": "eDp5"}
            });
            users(auths, image)
        };
        assert_eq!(users("registry.test/team/web:1"), ["t", "a"]);
        assert_eq!(users("registry.test/teams/web:1"), ["a"]);
        assert_eq!(users("registry.test/web:1"), ["a"]);
        assert_eq!(users("elsewhere.test/web:1"), Vec::<String>::new());
    }

    #[test]
    fn docker_hubs_credentials_are_where_kubectl_writes_them() {
        let hub = || serde_json::json!({"https://index.docker.io/v1/": {"auth": "YTpi"}});
        assert_eq!(users(hub(), "docker.io/team/web:1"), ["a"]);
        assert_eq!(users(hub(), "index.docker.io/team/web:1"), ["a"]);
        assert_eq!(users(hub(), "registry.test/team/web:1"), Vec::<String>::new());
        let both = serde_json::json!({
            "https://index.docker.io/v1/": {"auth": "YTpi"},
            "docker.io/team": {"auth": "eDp5"}
        });
        assert_eq!(users(both, "docker.io/team/web:1"), ["x"], "what names the image comes alone");
    }

    #[test]
    fn hosts_match_label_by_label_and_ports_exactly() {
        let fits = |server: &str, image| Place::of(server).fits(image);
        for (server, image) in [
            ("*.test.example", "a.test.example/web"),
            ("https://*.*.example/v2/", "a.test.example/web"),
            ("prefix*.test", "prefix-7.test/web"),
            ("registry-?.test", "registry-7.test/web"),
            ("registry.test:5000", "registry.test:5000/web"),
            ("http://registry.test/v1", "registry.test/web"),
            ("registry.test/team/", "registry.test/team:1"),
        ] {
            assert!(fits(server, image), "{server} {image}");
        }
        for (server, image) in [
            ("*.example", "a.test.example/web"),
            ("*.test.example", "test.example/web"),
            ("registry.test", "registry.test:5000/web"),
            ("registry.test:5000", "registry.test/web"),
            ("registry.test/v2x", "registry.test/web"),
        ] {
            assert!(!fits(server, image), "{server} {image}");
        }
    }
}
