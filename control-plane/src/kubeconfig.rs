//! Kubeconfigs, rendered and read back.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machine::pki::Issued;
use serde_json::{Value, json};

/// Renders a kubeconfig with everything embedded.
///
/// # Errors
/// Never in practice: JSON values always serialize to YAML.
pub fn render(
    cluster: &str,
    server: &str,
    ca: &str,
    user: &str,
    client: &Issued,
) -> Result<String, serde_yaml_ng::Error> {
    let context = format!("{user}@{cluster}");
    serde_yaml_ng::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&client.certificate),
            "client-key-data": STANDARD.encode(&client.key),
        }}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "current-context": context,
    }))
}

/// The client certificate and key in a kubeconfig of ours, if it is whole.
#[must_use]
pub fn client_of(text: &str) -> Option<Issued> {
    let value: Value = serde_yaml_ng::from_str(text).ok()?;
    let user = value.pointer("/users/0/user")?;
    let field = |name: &str| String::from_utf8(STANDARD.decode(user.get(name)?.as_str()?).ok()?).ok();
    Some(Issued { certificate: field("client-certificate-data")?, key: field("client-key-data")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_is_read_back_as_written() {
        let client = Issued { certificate: "CERT\n".into(), key: "KEY\n".into() };
        let text = render("demo", "https://10.5.0.10:6443", "CA\n", "admin", &client).unwrap();
        assert_eq!(client_of(&text), Some(client));
        let value: Value = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(value["clusters"][0]["cluster"]["server"], "https://10.5.0.10:6443");
        assert_eq!(value["current-context"], "admin@demo");
        assert_eq!(client_of("kind: Config"), None);
        assert_eq!(client_of(":"), None);
    }
}
