//! One-time tokens: which request a stream URL stands for.
use std::collections::HashMap;
use std::io::Read;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Request;
use super::error::RegisterError;

/// How long a token waits for its one use.
const LIFE: Duration = Duration::from_secs(60);
/// The most tokens that wait at once.
const MOST: usize = 1000;

/// The tokens that wait for their use.
#[derive(Debug, Default)]
pub struct Tokens {
    waiting: Mutex<HashMap<String, (Instant, Request)>>,
}

impl Tokens {
    /// Remembers `request` for a minute under 128 random bits, in hex.
    ///
    /// # Errors
    /// When too many requests wait for their client already, or the kernel gives no random bytes.
    pub fn put(&self, request: Request) -> Result<String, RegisterError> {
        let mut bytes = [0_u8; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut f| f.read_exact(&mut bytes))
            .map_err(RegisterError::NoRandomBytes)?;
        let token = hex::encode(bytes);
        self.put_at(Instant::now(), token.clone(), request)?;
        Ok(token)
    }

    fn put_at(&self, now: Instant, token: String, request: Request) -> Result<(), RegisterError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if waiting.len() >= MOST {
            waiting.retain(|_, (born, _)| now.duration_since(*born) < LIFE);
        }
        if waiting.len() >= MOST {
            return Err(RegisterError::TooManyWait(MOST));
        }
        waiting.insert(token, (now, request));
        Ok(())
    }

    /// The request of a token, which is spent by this.
    pub fn take(&self, token: &str) -> Option<Request> {
        self.take_at(Instant::now(), token)
    }

    fn take_at(&self, now: Instant, token: &str) -> Option<Request> {
        let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (born, request) = waiting.remove(token)?;
        (now.duration_since(born) < LIFE).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::Attach(machine::cri::AttachRequest::default())
    }

    #[test]
    fn a_token_is_long_random_and_good_for_one_use() {
        let tokens = Tokens::default();
        let (a, b) = (tokens.put(request()).unwrap(), tokens.put(request()).unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), 32);
        assert!(tokens.take(&a).is_some());
        assert!(tokens.take(&a).is_none());
        assert!(tokens.take("").is_none());
    }

    #[test]
    fn a_token_dies_after_a_minute_and_their_number_is_bounded() {
        let tokens = Tokens::default();
        let start = Instant::now();
        for n in 0..MOST {
            tokens.put_at(start, n.to_string(), request()).unwrap();
        }
        assert!(tokens.put_at(start, "more".into(), request()).is_err());
        assert!(tokens.take_at(start + LIFE, "0").is_none());
        tokens.put_at(start + LIFE, "more".into(), request()).unwrap();
        assert!(tokens.take_at(start + LIFE, "more").is_some());
    }
}
