//! Network configurations (section 1 of the specification): from bytes to what is run. Pure.
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::foreign::{json, words};
use super::version::{self, Version};

/// Plugins in one chain; nobody needs more.
const MAX_PLUGINS: usize = 64;

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is not valid JSON: {0}")]
    Json(String),
    #[error("it must be a JSON object")]
    NotAnObject,
    #[error("the field {0:?} is missing")]
    Missing(&'static str),
    #[error("the field {field:?} must be {wanted}")]
    Kind { field: &'static str, wanted: &'static str },
    #[error(
        "{0:?} cannot be a network's name: it begins with a letter or digit, and has only letters, digits, `_`, `.` and `-` after it"
    )]
    Name(String),
    #[error("{0:?} cannot be a plugin's type: it is the name of a file, without a folder")]
    Type(String),
    #[error("none of its versions ({0}) is supported; supported are 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0")]
    Version(String),
    #[error("it has no plugins")]
    NoPlugins,
    #[error("it has {0} plugins; at most {MAX_PLUGINS} are run")]
    TooManyPlugins(usize),
    #[error("loadOnlyInlinedPlugins is true, but there is no list \"plugins\" in it")]
    NothingInlined,
    #[error("a list of plugins belongs into a file that ends in .conflist")]
    ListInConf,
}

/// A network configuration with the version it is used with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    pub name: String,
    pub version: Version,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub load_only_inlined_plugins: bool,
    pub plugins: Vec<Plugin>,
}

/// A plugin configuration object, whole: what is not of the protocol is the plugin's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    pub program: String,
    pub config: Map<String, Value>,
}

impl Plugin {
    /// Reads a plugin configuration object.
    ///
    /// # Errors
    /// Without a `type` that names a program.
    pub fn from_object(config: Map<String, Value>) -> Result<Self, Fault> {
        let program = text(&config, "type")?.ok_or(Fault::Missing("type"))?;
        let bad = |c: char| c == '/' || c == '\\' || c.is_control();
        if program.is_empty() || program.len() > 255 || program.starts_with('.') || program.contains(bad) {
            return Err(Fault::Type(words(program)));
        }
        if config.get("capabilities").is_some_and(|capabilities| !capabilities.is_object()) {
            return Err(Fault::Kind { field: "capabilities", wanted: "an object" });
        }
        Ok(Self { program: program.into(), config })
    }

    /// Whether the plugin wants to be given `capability`.
    pub fn wants(&self, capability: &str) -> bool {
        let declared = self.config.get("capabilities").and_then(|all| all.get(capability));
        declared.and_then(Value::as_bool) == Some(true)
    }
}

/// Parses a `.conflist`. Its list may be empty, or not be there: plugins of the folder named after the network may follow.
///
/// # Errors
/// The first fault.
pub fn parse_list(bytes: &[u8]) -> Result<NetworkConfig, Fault> {
    let object = object(bytes)?;
    let plugins = match object.get("plugins") {
        None => None,
        Some(Value::Array(list)) => Some(list),
        Some(_) => return Err(Fault::Kind { field: "plugins", wanted: "a list" }),
    };
    let mut network = header(&object)?;
    if network.load_only_inlined_plugins && plugins.is_none() {
        return Err(Fault::NothingInlined);
    }
    for plugin in plugins.into_iter().flatten() {
        let Value::Object(plugin) = plugin else {
            return Err(Fault::Kind { field: "plugins", wanted: "a list of objects" });
        };
        network.plugins.push(Plugin::from_object(plugin.clone())?);
    }
    Ok(network)
}

/// Parses a `.conf` or `.json`, the older form: one plugin, whose object has the network's name and version too.
///
/// # Errors
/// The first fault.
pub fn parse_single(bytes: &[u8]) -> Result<NetworkConfig, Fault> {
    let object = object(bytes)?;
    if object.contains_key("plugins") && !object.contains_key("type") {
        return Err(Fault::ListInConf);
    }
    let mut network = header(&object)?;
    network.load_only_inlined_plugins = true;
    network.plugins.push(Plugin::from_object(object)?);
    Ok(network)
}

/// Parses a plugin configuration object from a file of its own.
///
/// # Errors
/// The first fault.
pub fn parse_plugin(bytes: &[u8]) -> Result<Plugin, Fault> {
    Plugin::from_object(object(bytes)?)
}

/// Puts plugins from files of their own behind the inlined ones, and looks at the whole.
///
/// # Errors
/// Without a plugin, and with too many.
pub fn complete(mut network: NetworkConfig, further: Vec<Plugin>) -> Result<NetworkConfig, Fault> {
    network.plugins.extend(further);
    match network.plugins.len() {
        0 => Err(Fault::NoPlugins),
        count if count > MAX_PLUGINS => Err(Fault::TooManyPlugins(count)),
        _ => Ok(network),
    }
}

fn header(object: &Map<String, Value>) -> Result<NetworkConfig, Fault> {
    let name = text(object, "name")?.ok_or(Fault::Missing("name"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) || name.len() > 128
    {
        return Err(Fault::Name(words(name)));
    }
    Ok(NetworkConfig {
        name: name.into(),
        version: versions(object)?,
        disable_check: flag(object, "disableCheck")?,
        disable_gc: flag(object, "disableGC")?,
        load_only_inlined_plugins: flag(object, "loadOnlyInlinedPlugins")?,
        plugins: Vec::new(),
    })
}

fn versions(object: &Map<String, Value>) -> Result<Version, Fault> {
    let mut listed: Vec<&str> = text(object, "cniVersion")?.into_iter().collect();
    let wrong = Fault::Kind { field: "cniVersions", wanted: "a list of strings" };
    match object.get("cniVersions") {
        None => {}
        Some(Value::Array(list)) => {
            for version in list {
                listed.push(version.as_str().ok_or_else(|| wrong.clone())?);
            }
        }
        Some(_) => return Err(wrong),
    }
    if listed.is_empty() {
        return Err(Fault::Missing("cniVersion"));
    }
    version::choose(listed.iter().copied()).ok_or_else(|| Fault::Version(words(&listed.join(", "))))
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    match json(bytes).map_err(Fault::Json)? {
        Value::Object(object) => Ok(object),
        _ => Err(Fault::NotAnObject),
    }
}

fn text<'a>(object: &'a Map<String, Value>, field: &'static str) -> Result<Option<&'a str>, Fault> {
    match object.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Fault::Kind { field, wanted: "a string" }),
    }
}

/// Some installers write booleans as strings, and every other runtime reads them.
fn flag(object: &Map<String, Value>, field: &'static str) -> Result<bool, Fault> {
    match object.get(field) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(Fault::Kind { field, wanted: "true or false" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> Result<NetworkConfig, Fault> {
        parse_list(text.as_bytes())
    }

    #[test]
    fn a_list_is_read_with_its_highest_version_and_switches() {
        let network = list(
            r#"{"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "7.0.0"], "name": "dbnet", "disableCheck": true, "disableGC": "TRUE",
                "plugins": [{"type": "bridge", "keyA": ["x", {"y": 1}]}, {"type": "portmap", "capabilities": {"portMappings": true, "dns": false}}]}"#,
        )
        .unwrap();
        assert_eq!((network.name.as_str(), network.version), ("dbnet", Version::V1_1_0));
        assert!(network.disable_check && network.disable_gc && !network.load_only_inlined_plugins);
        assert_eq!(network.plugins[0].config["keyA"][1]["y"], 1);
        let portmap = &network.plugins[1];
        assert!(portmap.wants("portMappings") && !portmap.wants("dns") && !portmap.wants("mac"));
    }

    #[test]
    fn each_fault_says_what_is_wrong() {
        for (text, wanted) in [
            ("{", "not valid JSON: EOF"),
            ("[]", "must be a JSON object"),
            (r#"{"cniVersion": "1.0.0"}"#, r#""name" is missing"#),
            (r#"{"name": 7}"#, r#""name" must be a string"#),
            (r#"{"name": "../x", "cniVersion": "1.0.0"}"#, "cannot be a network's name"),
            (r#"{"name": "x"}"#, r#""cniVersion" is missing"#),
            (r#"{"name": "x", "cniVersion": "0.2.0"}"#, "none of its versions (0.2.0) is supported"),
            (r#"{"name": "x", "cniVersions": "1.0.0"}"#, "must be a list of strings"),
            (r#"{"name": "x", "cniVersion": "1.0.0", "disableGC": 1}"#, "must be true or false"),
            (r#"{"name": "x", "cniVersion": "1.0.0", "plugins": {}}"#, r#""plugins" must be a list"#),
            (r#"{"name": "x", "cniVersion": "1.0.0", "plugins": [{}]}"#, r#""type" is missing"#),
            (
                r#"{"name": "x", "cniVersion": "1.0.0", "plugins": [{"type": "../sh"}]}"#,
                "cannot be a plugin's type",
            ),
            (
                r#"{"name": "x", "cniVersion": "1.0.0", "plugins": [{"type": ".."}]}"#,
                "cannot be a plugin's type",
            ),
            (r#"{"name": "x", "cniVersion": "1.0.0", "loadOnlyInlinedPlugins": true}"#, "there is no list"),
        ] {
            let fault = list(text).unwrap_err().to_string();
            assert!(fault.contains(wanted), "{text}: {fault}");
        }
        assert_eq!(
            parse_single(br#"{"name": "x", "cniVersion": "1.0.0", "plugins": []}"#),
            Err(Fault::ListInConf)
        );
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let network = parse_single(br#"{"name": "x", "cniVersion": "0.3.1", "type": "bridge", "mtu": 9000}"#);
        let network = complete(network.unwrap(), Vec::new()).unwrap();
        assert_eq!((network.plugins.len(), &network.plugins[0].config["mtu"]), (1, &Value::from(9000)));
    }

    #[test]
    fn plugins_of_the_folder_come_after_the_inlined_ones() {
        let network = list(r#"{"name": "x", "cniVersion": "1.1.0", "plugins": [{"type": "a"}]}"#).unwrap();
        let further = parse_plugin(br#"{"type": "b"}"#).unwrap();
        let whole = complete(network, vec![further.clone()]).unwrap();
        assert_eq!(whole.plugins.iter().map(|p| p.program.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let empty = list(r#"{"name": "x", "cniVersion": "1.1.0"}"#).unwrap();
        assert_eq!(complete(empty.clone(), Vec::new()), Err(Fault::NoPlugins));
        assert_eq!(complete(empty, vec![further; 65]), Err(Fault::TooManyPlugins(65)));
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (parse_list(&bytes), parse_single(&bytes), parse_plugin(&bytes));
        }

        #[test]
        fn what_is_read_can_be_put_on_record(
            fields in prop::collection::vec(("(name|cniVersion|cniVersions|plugins|type|capabilities|disableGC|[a-z]{1,4})",
                r#"("[a-z0-9./]{0,6}"|\["1\.[01]\.0"\]|\[\{"type":"x"\}\]|true|null|\{\}|-?[0-9]{1,9}(\.[0-9]{1,3})?)"#), 0..8)
        ) {
            let text = format!("{{{}}}", fields.iter().map(|(k, v)| format!("{k:?}:{v}")).collect::<Vec<_>>().join(","));
            for network in [parse_list(text.as_bytes()), parse_single(text.as_bytes())].into_iter().flatten() {
                let record = serde_json::to_vec(&network).unwrap();
                prop_assert_eq!(serde_json::from_slice::<NetworkConfig>(&record).unwrap(), network);
            }
        }
    }
}
