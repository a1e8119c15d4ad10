//! The kernel modules that are shipped: a wanted list closed over dependencies, Debian's files unmodified (their signatures stay
//! valid), and the index files that module loading needs, made from the modules' own `.modinfo`.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

/// What a module says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    pub depends: Vec<String>,
    pub aliases: Vec<String>,
    pub softdeps: Vec<String>,
}

/// Parses the `.modinfo` section: NUL-separated `key=value`.
#[must_use]
pub fn parse_modinfo(section: &[u8]) -> ModuleInfo {
    let mut info = ModuleInfo::default();
    for entry in section.split(|byte| *byte == 0) {
        let Some((key, value)) = std::str::from_utf8(entry).ok().and_then(|text| text.split_once('=')) else {
            continue;
        };
        match key {
            "depends" => info.depends.extend(value.split(',').filter(|name| !name.is_empty()).map(normal)),
            "alias" => info.aliases.push(value.to_owned()),
            "softdep" => info.softdeps.push(value.to_owned()),
            _ => {}
        }
    }
    info
}

/// Modules are named with `_` and `-` interchangeably.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// A kernel release's unpacked module tree.
#[derive(Debug)]
pub struct ModuleTree {
    root: PathBuf,
    /// Name → path relative to the tree.
    paths: BTreeMap<String, String>,
    builtin: BTreeSet<String>,
    info: BTreeMap<String, ModuleInfo>,
}

/// A closed set of modules and its index files.
#[derive(Debug)]
pub struct Subset {
    /// Paths relative to `lib/modules/<release>`.
    pub files: Vec<String>,
    /// Name and content of index files.
    pub indexes: Vec<(&'static str, String)>,
}

impl ModuleTree {
    /// Reads the list of modules of `lib/modules/<release>`.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(root: &Path) -> Result<Self> {
        let mut paths = BTreeMap::new();
        for path in crate::digest::walk(&root.join("kernel"))? {
            let relative = path.strip_prefix(root)?.to_string_lossy().into_owned();
            if let Some(name) = module_name(&relative) {
                paths.insert(name, relative);
            }
        }
        let builtin =
            std::fs::read_to_string(root.join("modules.builtin")).context("read modules.builtin")?;
        let builtin = builtin.lines().filter_map(module_name).collect();
        Ok(Self { root: root.to_path_buf(), paths, builtin, info: BTreeMap::new() })
    }

    /// Closes `wanted` (names, or folders that end in `/`) over dependencies.
    ///
    /// # Errors
    /// When a wanted module does not exist or a file is no module.
    pub fn subset(&mut self, wanted: &[&str]) -> Result<Subset> {
        let mut pending = Vec::new();
        for item in wanted {
            if item.ends_with('/') {
                pending.extend(
                    self.paths
                        .iter()
                        .filter(|(_, path)| path.starts_with(item))
                        .map(|(name, _)| name.clone()),
                );
            } else {
                pending.push(normal(item));
            }
        }
        let mut chosen = BTreeSet::new();
        while let Some(name) = pending.pop() {
            if self.builtin.contains(&name) || chosen.contains(&name) {
                continue;
            }
            pending.extend(self.info(&name)?.depends.iter().cloned());
            chosen.insert(name);
        }
        self.index(&chosen)
    }

    fn info(&mut self, name: &str) -> Result<&ModuleInfo> {
        if !self.info.contains_key(name) {
            let Some(path) = self.paths.get(name) else { bail!("the kernel package has no module {name}") };
            let info = read_modinfo(&self.root.join(path)).with_context(|| format!("read module {path}"))?;
            self.info.insert(name.to_owned(), info);
        }
        Ok(&self.info[name])
    }

    fn index(&self, chosen: &BTreeSet<String>) -> Result<Subset> {
        let (mut dep, mut alias, mut softdep) = (String::new(), String::new(), String::new());
        let mut files = Vec::new();
        for name in chosen {
            let (path, info) = (&self.paths[name], &self.info[name]);
            let order =
                load_order(name, &|module| self.info.get(module).map_or(&[], |info| info.depends.as_slice()));
            // As depmod writes it: the module that must be loaded first comes last.
            let needs: Vec<&str> =
                order.iter().rev().filter_map(|module| self.paths.get(module)).map(String::as_str).collect();
            writeln!(dep, "{path}:{}{}", if needs.is_empty() { "" } else { " " }, needs.join(" "))?;
            for pattern in &info.aliases {
                writeln!(alias, "alias {pattern} {name}")?;
            }
            for needed in &info.softdeps {
                writeln!(softdep, "softdep {name} {needed}")?;
            }
            files.push(path.clone());
        }
        files.sort();
        let builtin = std::fs::read_to_string(self.root.join("modules.builtin"))?;
        let indexes = vec![
            ("modules.alias", alias),
            ("modules.builtin", builtin),
            ("modules.dep", dep),
            ("modules.softdep", softdep),
        ];
        Ok(Subset { files, indexes })
    }
}

/// All dependencies of `name`, each after its own.
fn load_order<'a>(name: &str, depends: &impl Fn(&str) -> &'a [String]) -> Vec<String> {
    fn visit<'a>(name: &str, depends: &impl Fn(&str) -> &'a [String], order: &mut Vec<String>) {
        for needed in depends(name) {
            if !order.contains(needed) {
                visit(needed, depends, order);
                order.push(needed.clone());
            }
        }
    }
    let mut order = Vec::new();
    visit(name, depends, &mut order);
    order
}

fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = file.strip_suffix(".ko").or_else(|| file.strip_suffix(".ko.xz"))?;
    Some(normal(stem))
}

fn read_modinfo(path: &Path) -> Result<ModuleInfo> {
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::new();
    xz2::read::XzDecoder::new(file).read_to_end(&mut bytes)?;
    let elf = object::File::parse(&*bytes)?;
    let section = elf.section_by_name(".modinfo").context("no .modinfo section")?;
    Ok(parse_modinfo(section.data()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modinfo_is_split_at_nul() {
        let info =
            parse_modinfo(b"license=GPL\0depends=dm-mod,dm-bufio\0alias=pci:v*\0softdep=pre: crc32c\0\0");
        assert_eq!(info.depends, ["dm_mod", "dm_bufio"]);
        assert_eq!(info.aliases, ["pci:v*"]);
        assert_eq!(info.softdeps, ["pre: crc32c"]);
        assert_eq!(parse_modinfo(b"depends=\0"), ModuleInfo::default());
    }

    #[test]
    fn dependencies_load_before_their_users() {
        let a = ["b".to_owned(), "c".to_owned()];
        let b = ["c".to_owned()];
        let depends = |name: &str| -> &[String] {
            match name {
                "a" => &a,
                "b" => &b,
                _ => &[],
            }
        };
        assert_eq!(load_order("a", &depends), ["c", "b"]);
    }

    #[test]
    fn names_do_not_depend_on_the_dash() {
        assert_eq!(module_name("kernel/drivers/md/dm-mod.ko.xz").as_deref(), Some("dm_mod"));
        assert_eq!(module_name("kernel/drivers/md/modules.order"), None);
    }
}
