//! Authorization: what a registry asks for, and what credentials answer (RFC 7235, and the distribution
//! project's token protocol).
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Auth;

/// What a pull may show to the registry.
#[derive(Clone, Default)]
pub struct Credentials {
    pub user: Option<(String, String)>,
    /// An OAuth2 refresh token.
    pub identity_token: Option<String>,
    /// A ready bearer token.
    pub registry_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// The credentials that a pull was given, if they are meant for `host`.
    pub fn of(auth: &Auth, host: &str) -> Option<Self> {
        let server = auth.server_address.trim();
        let server = server.split_once("://").map_or(server, |(_, rest)| rest);
        let server = server.split('/').next().unwrap_or("");
        if !server.is_empty() && server != host {
            return None;
        }
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        let user = if auth.username.is_empty() {
            let decoded = STANDARD.decode(auth.auth.trim()).ok().and_then(|d| String::from_utf8(d).ok());
            // Docker pads what it stores with zero bytes.
            decoded.and_then(|d| {
                d.split_once(':').map(|(u, p)| (u.to_owned(), p.trim_end_matches('\0').to_owned()))
            })
        } else {
            Some((auth.username.clone(), auth.password.clone()))
        };
        let (identity_token, registry_token) = (some(&auth.identity_token), some(&auth.registry_token));
        let any = user.is_some() || identity_token.is_some() || registry_token.is_some();
        any.then_some(Self { user, identity_token, registry_token })
    }

    /// A text without any of them, nor the authorization that was made of them.
    pub fn hide(&self, mut text: String, authorization: Option<&str>) -> String {
        let user = self.user.iter().flat_map(|(_, password)| [Some(password.clone()), self.basic()]);
        let tokens =
            [self.identity_token.clone(), self.registry_token.clone(), authorization.map(str::to_owned)];
        for secret in user.chain(tokens).flatten() {
            // `Basic` and `Bearer` alone are no secret.
            let secret = secret.strip_prefix("Basic ").or(secret.strip_prefix("Bearer ")).unwrap_or(&secret);
            if !secret.is_empty() {
                text = text.replace(secret, "…");
            }
        }
        text
    }

    pub fn basic(&self) -> Option<String> {
        self.user
            .as_ref()
            .map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }
}

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The best of several `WWW-Authenticate` headers: a token before a password.
    pub fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let all: Vec<_> = headers.filter_map(Self::parse).collect();
        all.iter().find(|c| matches!(c, Self::Bearer { .. })).or(all.first()).cloned()
    }

    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = rest.trim_start();
        while let Some((name, value)) = rest.split_once('=') {
            let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
                let (value, after) = quoted.split_once('"')?;
                (value, after)
            } else {
                value.split_once(',').map_or((value, ""), |(v, _)| (v.trim(), &value[v.len()..]))
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                "scope" => scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// A request to a token service.
#[derive(Debug)]
pub struct TokenRequest {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

/// GET with the password, or POST with the refresh token.
pub fn token_request(
    credentials: &Credentials,
    path: &str,
    service: Option<&str>,
    scope: &str,
) -> TokenRequest {
    let service = service.map(|s| format!("service={}&", encode(s))).unwrap_or_default();
    let query = format!("{service}scope={}", encode(scope));
    if let Some(token) = &credentials.identity_token {
        let body =
            format!("grant_type=refresh_token&{query}&client_id=pintle&refresh_token={}", encode(token));
        let headers = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
        return TokenRequest { method: "POST", path: path.into(), headers, body };
    }
    let separator = if path.contains('?') { '&' } else { '?' };
    TokenRequest {
        method: "GET",
        path: format!("{path}{separator}{query}"),
        headers: credentials.basic().map(|b| ("authorization", b)).into_iter().collect(),
        body: String::new(),
    }
}

/// The token in a token service's answer.
pub fn parse_token(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let token =
        ["token", "access_token"].iter().find_map(|k| value.get(k)?.as_str().filter(|t| !t.is_empty()));
    token.filter(|t| t.bytes().all(|b| b.is_ascii_graphic())).map(str::to_owned)
}

/// What a registry says is wrong, on one bounded line: the first of its errors as the distribution
/// specification has them. Any other body is not a registry's own word, and users are not shown what else may
/// answer where a name leads.
pub fn error_message(body: &[u8], hide: impl FnOnce(String) -> String) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Error>,
    }
    #[derive(serde::Deserialize)]
    struct Error {
        code: String,
        #[serde(default)]
        message: String,
    }
    let Errors { errors } = serde_json::from_slice(body).ok()?;
    let Error { code, message } = errors.into_iter().next()?;
    let is_code = !code.is_empty() && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let text = || if message.is_empty() { code.clone() } else { format!("{code}: {message}") };
    is_code.then(|| hide(text()).chars().filter(|c| !c.is_control()).take(300).collect())
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#;
        assert_eq!(
            Challenge::choose(["Basic realm=\"x\"", header].into_iter()),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: Some("registry".into()),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
        assert_eq!(Challenge::choose(["basic realm=\"x\""].into_iter()), Some(Challenge::Basic));
        assert_eq!(Challenge::choose(["Digest x", "Bearer service=\"x\""].into_iter()), None);
    }

    #[test]
    fn what_a_registry_repeats_of_credentials_is_hidden() {
        let user = Some(("user".to_owned(), "pass word".to_owned()));
        let credentials = Credentials { user, identity_token: Some("refresh".into()), registry_token: None };
        let basic = credentials.basic().unwrap();
        let message = format!("got {basic}, pass word, refresh and Bearer abc.def from user");
        let body = serde_json::json!({"errors": [{"code": "DENIED", "message": message}]}).to_string();
        let message = error_message(body.as_bytes(), |text| credentials.hide(text, Some("Bearer abc.def")));
        assert_eq!(message.unwrap(), "DENIED: got Basic …, …, … and Bearer … from user");
    }

    #[test]
    fn only_a_registrys_own_errors_are_shown_and_only_a_line_of_them() {
        let shown = |body: &str| error_message(body.as_bytes(), |text| text);
        for other in [
            "",
            "<html>",
            "etcd_server_version 3",
            "{}",
            r#"{"errors":[]}"#,
            r#"{"errors":["permission denied"]}"#,
            r#"{"kind":"Status","message":"secret"}"#,
            r#"{"errors":[{"code":7,"message":"secret"}]}"#,
            r#"{"errors":[{"code":"secret code","message":"secret"}]}"#,
            r#"{"errors":[{"message":"secret"}]}"#,
        ] {
            assert_eq!(shown(other), None, "{other}");
        }
        assert_eq!(shown(r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#).unwrap(), "NAME_UNKNOWN");
        let long = format!(r#"{{"errors":[{{"code":"A","message":"two\nlines {}"}}]}}"#, "x".repeat(1000));
        let line = shown(&long).unwrap();
        assert!(line.starts_with("A: twolines xxx") && line.chars().count() == 300, "{line}");
    }

    #[test]
    fn pull_secrets_are_for_their_server_only() {
        let auth = Auth {
            auth: STANDARD.encode("user:pass:word\0\0"),
            server_address: "https://reg.example/v1/".into(),
            ..Default::default()
        };
        let found = Credentials::of(&auth, "reg.example").unwrap();
        assert_eq!(found.user, Some(("user".into(), "pass:word".into())));
        assert!(Credentials::of(&auth, "other.example").is_none());
        assert!(Credentials::of(&Auth::default(), "reg.example").is_none());
    }
}
