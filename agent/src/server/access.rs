//! Who asks, and whether they may: client certificates and tokens, access reviews, each remembered for the kubelet's times.
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::backend::{Backend, User};
use super::route::Needed;

const TOKEN_KEPT: Duration = Duration::from_secs(120);
const ALLOWED_KEPT: Duration = Duration::from_secs(300);
const DENIED_KEPT: Duration = Duration::from_secs(30);
const MAX_ENTRIES: usize = 1024;
const MAX_TOKEN: usize = 32 << 10;
/// Tokens that are being asked about at the API server, in total and from one address, and how long others
/// wait for their turn.
const REVIEWS: usize = 32;
const REVIEWS_OF_ADDRESS: usize = 4;
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 401.
    Unauthenticated,
    /// 429: too many ask at once.
    Busy,
    /// 403.
    Forbidden(String),
    /// 500: the API server did not answer; nobody is let in without it.
    Unavailable(String),
}

/// What a client shows of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credentials<'a> {
    pub(super) certificate: Option<&'a [u8]>,
    pub(super) authorization: Option<&'a str>,
    pub(super) address: IpAddr,
}

/// Remembered answers; bounded.
#[derive(Debug, Default)]
pub(super) struct Access {
    tokens: Kept<[u8; 32], User>,
    /// Tokens that are nobody's; apart, so that any number of them pushes out no token that is somebody's.
    refused: Kept<[u8; 32], ()>,
    reviews: Reviews,
    decisions: Kept<(User, &'static str, &'static str), bool>,
}

impl Access {
    /// Who asks: the client certificate's subject if there is one, otherwise the bearer token's owner.
    pub(super) async fn authenticate(
        &self,
        credentials: Credentials<'_>,
        backend: &dyn Backend,
    ) -> Result<User, Refusal> {
        if let Some(user) = credentials.certificate.and_then(user_of_certificate) {
            return Ok(user);
        }
        let token = credentials.authorization.and_then(bearer).filter(|token| token.len() <= MAX_TOKEN);
        let token = token.ok_or(Refusal::Unauthenticated)?;
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(answer) = self.remembered(&key) {
            return answer;
        }
        let turn = tokio::time::timeout(TURN_WITHIN, self.reviews.turn(credentials.address)).await;
        let _turn = turn.ok().flatten().ok_or(Refusal::Busy)?;
        // Somebody may have asked the same meanwhile.
        if let Some(answer) = self.remembered(&key) {
            return answer;
        }
        match backend.token_review(token).await.map_err(Refusal::Unavailable)? {
            Some(user) => {
                self.tokens.put(key, user.clone(), TOKEN_KEPT);
                Ok(user)
            }
            None => {
                self.refused.put(key, (), TOKEN_KEPT);
                Err(Refusal::Unauthenticated)
            }
        }
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Result<User, Refusal>> {
        let refused = self.refused.get(key).map(|()| Err(Refusal::Unauthenticated));
        self.tokens.get(key).map(Ok).or(refused)
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

/// Reviews under way.
#[derive(Debug)]
struct Reviews {
    all: Arc<Semaphore>,
    /// Those of addresses that have any, or wait for one.
    addresses: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
}

impl Default for Reviews {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(REVIEWS)), addresses: Mutex::default() }
    }
}

impl Reviews {
    /// Waits until an address may ask. `None` cannot be, as the semaphores are never closed.
    async fn turn(&self, address: IpAddr) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let own = {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            addresses.retain(|_, semaphore| semaphore.strong_count() > 0);
            let own = addresses.get(&address).and_then(Weak::upgrade);
            let own = own.unwrap_or_else(|| Arc::new(Semaphore::new(REVIEWS_OF_ADDRESS)));
            addresses.insert(address, Arc::downgrade(&own));
            own
        };
        // Its own first: whoever waits among its like takes no place of others.
        let own = own.acquire_owned().await.ok()?;
        Some((own, self.all.clone().acquire_owned().await.ok()?))
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
