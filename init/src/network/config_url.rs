//! The variables in `pintle.config=` URLs, which let one boot entry serve many machines.
use std::path::Path;

/// What a URL may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// The system UUID of SMBIOS.
    pub uuid: String,
    /// The system serial number of SMBIOS.
    pub serial: String,
    /// The first network device's hardware address, `52:54:00:12:34:56`.
    pub mac: String,
    pub hostname: String,
}

impl Variables {
    /// Reads what sysfs at `sys` (/sys) says of this machine; `hostname` comes from DHCP or the default.
    pub fn read(sys: &Path, hostname: &str) -> Self {
        let dmi = |name: &str| {
            std::fs::read_to_string(sys.join("class/dmi/id").join(name)).unwrap_or_default().trim().to_owned()
        };
        Self {
            uuid: dmi("product_uuid"),
            serial: dmi("product_serial"),
            mac: first_mac(sys),
            hostname: hostname.into(),
        }
    }
}

/// The address of the first device that has hardware behind it, by index.
fn first_mac(sys: &Path) -> String {
    let devices = std::fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten();
    let real = devices.filter_map(|entry| {
        let path = entry.path();
        let read = |name: &str| std::fs::read_to_string(path.join(name)).ok();
        path.join("device").exists().then_some(())?;
        Some((read("ifindex")?.trim().parse::<u32>().ok()?, read("address")?.trim().to_owned()))
    });
    real.min().map(|(_, mac)| mac).unwrap_or_default()
}

/// Replaces `${uuid}`, `${serial}`, `${mac}` and `${hostname}`, percent-encoded; other text stays.
///
/// # Errors
/// For a variable that does not exist or that this machine has no value for.
pub fn expand(url: &str, variables: &Variables) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = url;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}').ok_or_else(|| format!("{url}: `${{` without `}}`"))?;
        let value = match name {
            "uuid" => &variables.uuid,
            "serial" => &variables.serial,
            "mac" => &variables.mac,
            "hostname" => &variables.hostname,
            _ => {
                return Err(format!(
                    "{url}: unknown variable {name:?}; there are uuid, serial, mac and hostname"
                ));
            }
        };
        if value.is_empty() {
            return Err(format!("{url}: this machine has no {name}; use another variable"));
        }
        text.push_str(before);
        text.extend(value.bytes().map(encode));
        rest = tail;
    }
    Ok(text + rest)
}

fn encode(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_and_escaped() {
        let variables = Variables {
            uuid: "4c4c4544".into(),
            serial: "A/1 b".into(),
            mac: "52:54:00:12:34:56".into(),
            hostname: String::new(),
        };
        let url = expand("http://boot/${mac}/${serial}?u=${uuid}", &variables).unwrap();
        assert_eq!(url, "http://boot/52:54:00:12:34:56/A%2F1%20b?u=4c4c4544");
        assert!(expand("http://boot/${hostname}", &variables).unwrap_err().contains("no hostname"));
        assert!(expand("http://boot/${rack}", &variables).unwrap_err().contains("unknown variable"));
        assert!(expand("http://boot/${mac", &variables).is_err());
        assert_eq!(expand("http://boot/plain", &variables).unwrap(), "http://boot/plain");
    }
}
