//! depmod's text indexes: modules.dep, modules.alias, modules.softdep.
use std::collections::{HashMap, HashSet};

/// What depends on what, read from one module tree. It is built for one batch of requests and dropped, since the alias list is long.
#[derive(Debug, Default)]
pub struct Index {
    /// Module name -> file and the files it needs, the last to be loaded first.
    dependencies: HashMap<String, (String, Vec<String>)>,
    softdeps: HashMap<String, Softdep>,
    /// Aliases that are names rather than patterns, such as `fs-ext4`.
    names: HashMap<String, Vec<String>>,
    aliases: String,
}

#[derive(Debug, Default)]
struct Softdep {
    pre: Vec<String>,
    post: Vec<String>,
}

/// Soft dependencies may be circular; no chain in the kernel is longer than this.
const MAX_DEPTH: usize = 8;

impl Index {
    /// Reads the three indexes' texts.
    pub fn new(dep: &str, alias: String, softdep: &str) -> Self {
        let mut index = Self::default();
        for (pattern, module) in alias.lines().filter_map(alias_line).filter(|(p, _)| is_name(p)) {
            index.names.entry(canonical(pattern)).or_default().push(canonical(module));
        }
        index.aliases = alias;
        for line in dep.lines() {
            if let Some((file, needs)) = line.split_once(':') {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                index.dependencies.insert(name_of(file), (file.to_owned(), needs));
            }
        }
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
            let entry = index.softdeps.entry(canonical(module)).or_default();
            let mut post = false;
            for word in words {
                match word {
                    "pre:" => post = false,
                    "post:" => post = true,
                    _ if post => entry.post.push(word.to_owned()),
                    _ => entry.pre.push(word.to_owned()),
                }
            }
        }
        index
    }

    /// The modules that each name, alias or device alias stands for, without doubles.
    pub fn resolve(&self, wanted: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        // Device aliases begin with their bus; comparing within a bus only makes the long list cheap.
        let mut by_bus: HashMap<&str, Vec<&str>> = HashMap::new();
        for alias in wanted {
            let name = canonical(alias);
            if self.dependencies.contains_key(&name) {
                if seen.insert(name.clone()) {
                    found.push(name);
                }
            } else if is_name(alias) {
                for module in self.names.get(&name).into_iter().flatten() {
                    if self.dependencies.contains_key(module) && seen.insert(module.clone()) {
                        found.push(module.clone());
                    }
                }
            } else {
                by_bus.entry(bus_of(alias)).or_default().push(alias);
            }
        }
        if by_bus.is_empty() {
            return found;
        }
        for line in self.aliases.lines() {
            let Some((pattern, module)) = alias_line(line) else { continue };
            let Some(candidates) = by_bus.get(bus_of(pattern)) else { continue };
            if candidates.iter().any(|alias| matches(pattern.as_bytes(), alias.as_bytes())) {
                let name = canonical(module);
                if self.dependencies.contains_key(&name) && seen.insert(name.clone()) {
                    found.push(name);
                }
            }
        }
        found
    }

    /// The files to load for a module, in order: what it softly wants before it, what it needs, itself, what it wants after it.
    pub fn files(&self, module: &str) -> Vec<String> {
        let mut files = Vec::new();
        self.collect(&canonical(module), 0, &mut files);
        files
    }

    fn collect(&self, module: &str, depth: usize, files: &mut Vec<String>) {
        let Some((file, needs)) = self.dependencies.get(module) else { return };
        if depth > MAX_DEPTH || files.contains(file) {
            return;
        }
        let softdep = self.softdeps.get(module);
        for soft in self.resolve(softdep.map_or(&[], |s| &s.pre)) {
            self.collect(&soft, depth + 1, files);
        }
        for need in needs.iter().rev() {
            if self.softdeps.contains_key(&name_of(need)) {
                self.collect(&name_of(need), depth + 1, files);
            } else if !files.contains(need) {
                files.push(need.clone());
            }
        }
        if !files.contains(file) {
            files.push(file.clone());
        }
        for soft in self.resolve(softdep.map_or(&[], |s| &s.post)) {
            self.collect(&soft, depth + 1, files);
        }
    }
}

fn alias_line(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("alias ")?.rsplit_once(' ')
}

/// Device aliases name their bus before a colon; everything else is compared whole.
fn is_name(alias: &str) -> bool {
    !alias.contains([':', '*', '?', '['])
}

fn bus_of(alias: &str) -> &str {
    // Patterns of ACPI and DMI devices have a wildcard before the colon.
    alias.split([':', '*', '?', '[']).next().unwrap_or(alias)
}

/// The kernel takes `-` and `_` in module names for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn name_of(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    canonical(base.split(".ko").next().unwrap_or(base))
}

/// Shell-style match with `*`, `?` and `[…]`, as depmod writes aliases.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(next) = match_one(pattern, p, text[t]) {
            p = next;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            p = star_p + 1;
            t = star_t + 1;
            star = Some((star_p, star_t + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Where the pattern goes on when its element at `p` matches `byte`.
fn match_one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => {
            let end = p + 1 + pattern[p + 1..].iter().position(|c| *c == b']')?;
            let set = &pattern[p + 1..end];
            let mut i = 0;
            let mut hit = false;
            while i < set.len() {
                if i + 2 < set.len() && set[i + 1] == b'-' {
                    hit |= (set[i]..=set[i + 2]).contains(&byte);
                    i += 3;
                } else {
                    hit |= set[i] == byte;
                    i += 1;
                }
            }
            hit.then_some(end + 1)
        }
        literal => (*literal == byte).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\n\
        kernel/fs/jbd2/jbd2.ko.xz:\nkernel/lib/crc16.ko.xz:\n\
        kernel/crypto/crc32c_generic.ko.xz:\nkernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz\n\
        kernel/net/core/failover.ko.xz:\n";
    const ALIAS: &str = "# comment\nalias crc32c crc32c_generic\nalias virtio:d00000001v* virtio_net\n\
        alias fs-ext4 ext4\nalias acpi*:LNXPWRBN:* failover\n";

    fn index() -> Index {
        Index::new(DEP, ALIAS.into(), "softdep ext4 pre: crc32c\n")
    }

    #[test]
    fn a_module_comes_after_its_soft_and_hard_dependencies() {
        assert_eq!(
            index().files("ext4"),
            [
                "kernel/crypto/crc32c_generic.ko.xz",
                "kernel/lib/crc16.ko.xz",
                "kernel/fs/jbd2/jbd2.ko.xz",
                "kernel/fs/ext4/ext4.ko.xz"
            ]
        );
    }

    #[test]
    fn devices_and_names_find_their_modules_once() {
        let wanted = ["virtio:d00000001v00001AF4", "virtio-net", "fs-ext4", "unknown", "acpi:LNXPWRBN:"];
        let wanted = wanted.map(String::from);
        assert_eq!(index().resolve(&wanted), ["virtio_net", "ext4", "failover"]);
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("pci:v*d*bc01sc06i01*", "pci:v00008086d00002922sv1bc01sc06i01", true),
            ("usb:v[0-9A]*p?", "usb:vA1p2", true),
            ("usb:v[0-9]", "usb:vA", false),
            ("a*b*c", "aXbYbZc", true),
            ("a[", "ab", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(dep in ".*", alias in ".*", soft in ".*", want in ".*") {
            let index = Index::new(&dep, alias, &soft);
            index.resolve(std::slice::from_ref(&want));
            index.files(&want);
        }
    }
}
