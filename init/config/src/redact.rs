//! A machine config without its secrets.
use serde_json::Value;

/// Stands where a secret was.
const GONE: &str = "(secret)";
/// Fields whose text is secret, wherever they stand.
const SECRET: [&str; 5] = ["key", "private", "bootstrapToken", "joinToken", "password"];

/// Replaces private keys, tokens and passwords in multi-document YAML.
///
/// # Errors
/// When the text is no YAML; nothing of it may be shown then.
pub fn redact(yaml: &str) -> Result<String, serde_yaml_ng::Error> {
    use serde::Deserialize;
    let mut text = String::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let mut value = Value::deserialize(document)?;
        if value.is_null() {
            continue;
        }
        hide(&mut value);
        text.push_str("---\n");
        text.push_str(&serde_yaml_ng::to_string(&value)?);
    }
    Ok(text)
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                match inner {
                    Value::String(text) if SECRET.contains(&&**name) => GONE.clone_into(text),
                    _ => hide(inner),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        // A manifest or a pod can hold anything, a Secret too: whole documents in text are not shown.
        Value::String(text) if text.contains("PRIVATE KEY") => GONE.clone_into(text),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tokens_and_passwords_do_not_show() {
        let shown = redact(
            "kind: Machine\njoinToken: K4\n---\nkind: Cluster\nname: demo\nbootstrapToken: abc\nca: {certificate: C, key: K1}\nserviceAccount: {public: P, private: K2}\n---\nkind: Registry\nauth: {username: u, password: K3}\n---\nkind: Manifest\ncontent: '-----BEGIN PRIVATE KEY-----'\n",
        )
        .unwrap();
        for secret in ["abc", "K1", "K2", "K3", "K4", "PRIVATE"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
        for plain in ["demo", "certificate: C", "public: P", "username: u"] {
            assert!(shown.contains(plain), "{plain}: {shown}");
        }
        assert!(redact("a: [").is_err());
    }
}
