//! Service account tokens, kept until they are due for renewal (pkg/kubelet/token).
use std::collections::HashMap;
use std::sync::Mutex;

use jiff::{SignedDuration, Timestamp};

use super::source::{ServiceAccountToken, Source, SourceError, TokenRequest};

const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// Far more than a node's pods use; the cache is emptied of what has expired when it is reached.
const MAX_TOKENS: usize = 4096;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    pod_uid: String,
    service_account: String,
    audience: Option<String>,
    expiration_seconds: i64,
}

#[derive(Debug, Default)]
pub(super) struct TokenCache {
    tokens: Mutex<HashMap<Key, ServiceAccountToken>>,
}

impl TokenCache {
    /// A token that is not due yet, from the cache or from the API server. One that is due but valid is better than none.
    pub(super) async fn get(
        &self,
        source: &dyn Source,
        request: TokenRequest<'_>,
        now: Timestamp,
    ) -> Result<ServiceAccountToken, SourceError> {
        let key = Key {
            pod_uid: request.pod_uid.to_owned(),
            service_account: request.service_account.to_owned(),
            audience: request.audience.map(str::to_owned),
            expiration_seconds: request.expiration_seconds,
        };
        let cached = self.tokens.lock().ok().and_then(|tokens| tokens.get(&key).cloned());
        if let Some(token) = cached.as_ref().filter(|token| due(token, request.expiration_seconds) > now) {
            return Ok(token.clone());
        }
        match (source.token(request).await, cached) {
            (Ok(token), _) => {
                if let Ok(mut tokens) = self.tokens.lock() {
                    if tokens.len() >= MAX_TOKENS {
                        tokens.retain(|_, token| token.expires > now);
                    }
                    if tokens.len() < MAX_TOKENS {
                        tokens.insert(key, token.clone());
                    }
                }
                Ok(token)
            }
            (Err(_), Some(token)) if token.expires > now => Ok(token),
            (Err(error), _) => Err(error),
        }
    }

    /// Forgets the tokens of a pod that is gone.
    pub(super) fn forget(&self, pod_uid: &str) {
        if let Ok(mut tokens) = self.tokens.lock() {
            tokens.retain(|key, _| key.pod_uid != pod_uid);
        }
    }
}

/// When a token is to be renewed: after 80 % of its life, or a day.
pub(super) fn due(token: &ServiceAccountToken, expiration_seconds: i64) -> Timestamp {
    let life = SignedDuration::from_secs(expiration_seconds);
    let issued = token.expires.saturating_sub(life).unwrap_or(token.expires);
    let age = SignedDuration::from_secs(expiration_seconds - expiration_seconds * 20 / 100).min(MAX_AGE);
    issued.saturating_add(age).unwrap_or(token.expires)
}
