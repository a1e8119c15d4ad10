//! Who asks, and whether they may: client certificates and tokens, access reviews, each remembered for the kubelet's times.
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::backend::{Backend, User};
use super::route::Needed;

const TOKEN_KEPT: Duration = Duration::from_secs(120);
const ALLOWED_KEPT: Duration = Duration::from_secs(300);
const DENIED_KEPT: Duration = Duration::from_secs(30);
const MAX_ENTRIES: usize = 1024;
const MAX_TOKEN: usize = 32 << 10;

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 401.
    Unauthenticated,
    /// 403.
    Forbidden(String),
    /// 500: the API server did not answer; nobody is let in without it.
    Unavailable(String),
}

/// Remembered answers; bounded.
#[derive(Debug, Default)]
pub(super) struct Access {
    tokens: Kept<[u8; 32], Option<User>>,
    decisions: Kept<(User, &'static str, &'static str), bool>,
}

impl Access {
    /// Who asks: the client certificate's subject if there is one, otherwise the bearer token's owner.
    pub(super) async fn authenticate(
        &self,
        certificate: Option<&[u8]>,
        authorization: Option<&str>,
        backend: &dyn Backend,
    ) -> Result<User, Refusal> {
        if let Some(user) = certificate.and_then(user_of_certificate) {
            return Ok(user);
        }
        let token = authorization.and_then(bearer).filter(|token| token.len() <= MAX_TOKEN);
        let token = token.ok_or(Refusal::Unauthenticated)?;
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let user = match self.tokens.get(&key) {
            Some(user) => user,
            None => {
                let user = backend.token_review(token).await.map_err(Refusal::Unavailable)?;
                self.tokens.put(key, user.clone(), TOKEN_KEPT);
                user
            }
        };
        user.ok_or(Refusal::Unauthenticated)
    }

    /// Whether the user has the verb on any of the subresources.
    pub(super) async fn authorize(
        &self,
        user: &User,
        needed: &Needed,
        backend: &dyn Backend,
    ) -> Result<(), Refusal> {
        for subresource in needed.subresources {
            let key = (user.clone(), needed.verb, *subresource);
            let allowed = match self.decisions.get(&key) {
                Some(allowed) => allowed,
                None => {
                    let review = backend.access_review(user, needed.verb, subresource).await;
                    let allowed = review.map_err(Refusal::Unavailable)?;
                    self.decisions.put(key, allowed, if allowed { ALLOWED_KEPT } else { DENIED_KEPT });
                    allowed
                }
            };
            if allowed {
                return Ok(());
            }
        }
        let resource = needed.subresources.first().copied().unwrap_or("proxy");
        let last = needed.subresources.last().copied().unwrap_or("proxy");
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{resource}{}{}])",
            user.name,
            needed.verb,
            if last == resource { "" } else { " " },
            if last == resource { "" } else { last },
        )))
    }
}

/// Common name and organizations of a certificate that TLS has verified.
fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let mut groups: Vec<String> = groups.map(str::to_owned).collect();
    groups.push("system:authenticated".to_owned());
    (!name.is_empty()).then(|| User { name, groups, ..User::default() })
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Values that expire; the oldest go first when it is full.
#[derive(Debug)]
struct Kept<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Kept<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let entries = self.0.lock().ok()?;
        entries.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, kept: Duration) {
        let Ok(mut entries) = self.0.lock() else { return };
        let now = Instant::now();
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, (until, _)| *until > now);
        }
        if entries.len() >= MAX_ENTRIES
            && let Some(oldest) =
                entries.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| key.clone())
        {
            entries.remove(&oldest);
        }
        entries.insert(key, (now + kept, value));
    }
}
