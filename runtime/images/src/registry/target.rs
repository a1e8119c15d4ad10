//! Where a request to a registry goes, and what follows from an answer's `Location`.
use super::endpoint::host_of;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub tls: bool,
    pub authority: String,
    pub path: String,
}

impl Target {
    pub fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        Some(Self { tls, authority: authority.to_string(), path: path.to_owned() })
    }

    pub fn join(&self, location: &str) -> Option<Self> {
        if location.starts_with("//") {
            return None;
        }
        if location.starts_with('/') {
            return Some(Self { path: location.to_owned(), ..self.clone() });
        }
        Self::parse(location)
    }

    /// As errors name it: a query may hold what lets anybody in.
    pub fn shown(&self) -> String {
        let path = self.path.split('?').next().unwrap_or("");
        format!("{}{path}", self.authority)
    }

    pub fn same_server(&self, other: &Self) -> bool {
        let place = |target: &Self| (target.tls, target.host().to_ascii_lowercase(), target.port());
        place(self) == place(other)
    }

    pub fn host(&self) -> &str {
        host_of(&self.authority)
    }

    pub fn port(&self) -> u16 {
        let port = self.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(if self.tls { 443 } else { 80 })
    }
}
