//! Certificate and key in one PEM file, as the kubelet keeps them.
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Where the kubelet keeps its certificates.
pub const PKI: &str = "/var/lib/kubelet/pki";

/// A certificate chain with its key.
#[derive(Clone)]
pub struct Pair {
    /// The whole file: certificates, then the key.
    pub text: String,
    /// Seconds since the epoch.
    pub not_before: i64,
    pub not_after: i64,
    pub common_name: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pair({}, until {})", self.common_name, self.not_after)
    }
}

impl Pair {
    /// Parses a chain and a key.
    ///
    /// # Errors
    /// When one is missing or broken.
    pub fn parse(text: String) -> anyhow::Result<Self> {
        let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .context("certificate")?;
        PrivateKeyDer::from_pem_slice(text.as_bytes()).context("private key")?;
        let leaf = chain.first().ok_or_else(|| anyhow!("no certificate"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).context("certificate")?;
        let validity = parsed.validity();
        let name = parsed.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let common_name = name.unwrap_or_default().to_owned();
        Ok(Self { text, not_before, not_after, common_name })
    }

    /// When to ask for the next one: `fraction` (0..1) spreads nodes between 70 and 90 % of the certificate's life.
    #[must_use]
    pub fn rotate_at(&self, fraction: f64) -> i64 {
        let life = (self.not_after - self.not_before) as f64;
        self.not_before + (life * (0.7 + 0.2 * fraction.clamp(0.0, 1.0))) as i64
    }

    /// The chain for rustls.
    ///
    /// # Errors
    /// When the PEM is broken.
    pub fn rustls(&self) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_slice_iter(self.text.as_bytes()).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(self.text.as_bytes())?))
    }
}

/// Reads `<stem>-current.pem`; `None` when it is not there or not usable.
#[must_use]
pub fn load(folder: &Path, stem: &str) -> Option<Pair> {
    let path = folder.join(format!("{stem}-current.pem"));
    let text = std::fs::read_to_string(&path).ok()?;
    Pair::parse(text).inspect_err(|error| tracing::warn!("{} is not usable: {error:#}", path.display())).ok()
}

/// Writes `<stem>-<time>.pem` and points `<stem>-current.pem` at it; after a power cut the link is the old or the new one.
///
/// # Errors
/// When a file cannot be written.
pub fn store(folder: &Path, stem: &str, pair: &Pair) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let stamp = jiff::Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S").to_string();
    let name = format!("{stem}-{stamp}.pem");
    let path = folder.join(&name);
    let write = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&path);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(pair.text.as_bytes())?;
        file.sync_all()?;
        let link: PathBuf = folder.join(format!(".{stem}-next"));
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&name, &link)?;
        std::fs::rename(&link, folder.join(format!("{stem}-current.pem")))?;
        std::fs::File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))?;
    forget_old(folder, stem, &name);
    Ok(())
}

/// Keeps the newest two.
fn forget_old(folder: &Path, stem: &str, newest: &str) {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with(&format!("{stem}-2")) && n != newest)
        .collect();
    names.sort();
    names.pop();
    for name in names {
        let _ = std::fs::remove_file(folder.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["n".into()]).unwrap().self_signed(&key).unwrap();
        let pair = Pair::parse(format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path(), "kubelet-client").is_none());
        store(folder.path(), "kubelet-client", &pair).unwrap();
        assert_eq!(load(folder.path(), "kubelet-client").unwrap().text, pair.text);
        let life = pair.not_after - pair.not_before;
        assert_eq!(pair.rotate_at(0.0) - pair.not_before, life * 7 / 10);
    }
}
