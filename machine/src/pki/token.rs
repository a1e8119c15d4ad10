use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use super::PkiError;
use super::facts::{decode, first_certificate};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const ID: usize = 6;
const SECRET: usize = 16;

/// Makes a bootstrap token, `xxxxxx.yyyyyyyyyyyyyyyy`: 30 bits of name and 80 bits of secret.
///
/// # Errors
/// When the random source fails.
pub fn bootstrap_token() -> Result<String, PkiError> {
    let mut bytes = [0_u8; ID + SECRET];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Random)?;
    let mut token: String = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    token.insert(ID, '.');
    Ok(token)
}

/// Makes a machine join token: 52 letters and digits, 260 bits.
///
/// # Errors
/// When the random source fails.
pub fn join_token() -> Result<String, PkiError> {
    let mut bytes = [0_u8; 52];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Random)?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

/// Whether a text can be a join token: 32 to 128 letters and digits.
#[must_use]
pub fn is_join_token(token: &str) -> bool {
    (32..=128).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether a text has the shape of a bootstrap token, as Kubernetes asks it: `[a-z0-9]{6}\.[a-z0-9]{16}`.
#[must_use]
pub fn is_bootstrap_token(token: &str) -> bool {
    let part = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
    };
    token.split_once('.').is_some_and(|(id, secret)| part(id, ID) && part(secret, SECRET))
}

/// The hash that pins a CA, as kubeadm writes it: `sha256:` and the hex SHA-256 of its public key information (RFC 5280 §4.1.2.7).
///
/// # Errors
/// When the text holds no certificate.
pub fn ca_hash(certificate_pem: &str) -> Result<String, PkiError> {
    let der = first_certificate(certificate_pem)?;
    let digest = Sha256::digest(decode(&der)?.public_key().raw);
    Ok(format!("sha256:{}", hex::encode(digest)))
}
