//! Which protocol a client and this server speak: SPDY/3.1 or WebSocket, and what of Kubernetes' in it.
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Request;
use super::remote::Version;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What client and server agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    Spdy(Version),
    /// Channels over WebSocket.
    Channels {
        version: Version,
        base64: bool,
    },
    /// SPDY in WebSocket.
    Tunnel,
}

/// An answer that says why not.
pub fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))));
    *response.status_mut() = status;
    response
}

fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
}

type Reply = Response<Full<Bytes>>;

/// The protocol that both speak and the answer that says so, or the answer that there is none.
#[expect(clippy::result_large_err, reason = "the error is the reply that goes out")]
pub fn negotiate(headers: &HeaderMap, request: &Request) -> Result<(Upgrade, Reply), Reply> {
    let connection = listed(headers, &CONNECTION).iter().any(|v| v.eq_ignore_ascii_case("upgrade"));
    let upgrade = headers.get(UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let port_forward = matches!(request, Request::PortForward(_));
    if connection && upgrade.eq_ignore_ascii_case("websocket") {
        let key = headers
            .get(SEC_WEBSOCKET_KEY)
            .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "no WebSocket key"))?;
        let asked = listed(headers, &SEC_WEBSOCKET_PROTOCOL);
        let chosen = if asked.is_empty() {
            Some(("", Upgrade::Channels { version: Version::V1, base64: false }))
        } else {
            asked.iter().find_map(|p| Some((*p, channel_protocol(p, port_forward)?)))
        };
        let why = "none of the WebSocket subprotocols is supported";
        let (protocol, upgrade) = chosen.ok_or_else(|| refuse(StatusCode::FORBIDDEN, why))?;
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
        if !protocol.is_empty() {
            response = response.header(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        return Ok((upgrade, built(response)));
    }
    if !connection || !upgrade.to_ascii_lowercase().contains("spdy/3.1") {
        return Err(refuse(StatusCode::BAD_REQUEST, "unable to upgrade: this takes SPDY/3.1 or websocket"));
    }
    let asked = listed(headers, &STREAM_PROTOCOL);
    let supported: &[(&str, Version)] =
        if port_forward { &PORT_FORWARD_PROTOCOLS } else { &REMOTE_PROTOCOLS };
    let chosen = asked.iter().find_map(|p| supported.iter().find(|(name, _)| name == p));
    let Some((protocol, version)) = chosen else {
        let mut response = refuse(StatusCode::FORBIDDEN, "unable to upgrade: unable to negotiate protocol");
        for (name, _) in supported {
            response.headers_mut().append(ACCEPTED_PROTOCOLS, http::HeaderValue::from_static(name));
        }
        return Err(response);
    };
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header(STREAM_PROTOCOL, *protocol);
    Ok((Upgrade::Spdy(*version), built(response)))
}

const PORT_FORWARD_PROTOCOLS: [(&str, Version); 1] = [("portforward.k8s.io", Version::V1)];
const REMOTE_PROTOCOLS: [(&str, Version); 4] = [
    ("v4.channel.k8s.io", Version::V4),
    ("v3.channel.k8s.io", Version::V3),
    ("v2.channel.k8s.io", Version::V2),
    ("channel.k8s.io", Version::V1),
];

fn channel_protocol(name: &str, port_forward: bool) -> Option<Upgrade> {
    let (version, base64) = match name {
        "SPDY/3.1+portforward.k8s.io" if port_forward => return Some(Upgrade::Tunnel),
        "v4.channel.k8s.io" => (Version::V4, false),
        "v4.base64.channel.k8s.io" => (Version::V4, true),
        "v5.channel.k8s.io" if !port_forward => (Version::V5, false),
        "channel.k8s.io" if !port_forward => (Version::V1, false),
        "base64.channel.k8s.io" if !port_forward => (Version::V1, true),
        _ => return None,
    };
    Some(Upgrade::Channels { version, base64 })
}

fn built(response: http::response::Builder) -> Response<Full<Bytes>> {
    let failed = |_| refuse(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made");
    response.body(Full::new(Bytes::new())).unwrap_or_else(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_protocols_are_refused_with_the_known_ones() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, "keep-alive, Upgrade".parse().unwrap());
        headers.insert(UPGRADE, "SPDY/3.1".parse().unwrap());
        headers.insert(STREAM_PROTOCOL, "v9.channel.k8s.io".parse().unwrap());
        let request = Request::Exec(machine::cri::ExecRequest::default());
        let response = negotiate(&headers, &request).unwrap_err();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers().get_all(ACCEPTED_PROTOCOLS).iter().count(), 4);
        headers.insert(STREAM_PROTOCOL, "v9.channel.k8s.io, v3.channel.k8s.io".parse().unwrap());
        assert_eq!(negotiate(&headers, &request).unwrap().0, Upgrade::Spdy(Version::V3));
    }
}
