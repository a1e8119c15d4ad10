//! Circles between sibling modules of a crate. Two modules that need each other are one module with a line through it: neither can be read, tested or moved
//! alone. What a module re-exports counts as what it is, not as where it is named.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::visit::Visit;
use syn::{Attribute, Item, UseTree};

/// A path of names, from the crate's root or from where it stands.
type Names = Vec<String>;

/// How deep re-exports of re-exports are followed.
const DEPTH: usize = 8;

/// One module: what it declares, imports and names.
#[derive(Debug, Default)]
struct Module {
    /// What each imported name stands for.
    imports: BTreeMap<String, Names>,
    /// Imports of everything in a module.
    globs: Vec<Names>,
    /// Every path that is named in it.
    named: BTreeSet<Names>,
}

/// The modules of a crate by their paths; the root's is empty.
#[derive(Debug, Default)]
pub struct Crate {
    modules: BTreeMap<Names, Module>,
}

impl Crate {
    /// Reads a crate from its root file.
    ///
    /// # Errors
    /// When a file cannot be read or is no Rust.
    pub fn read(root: &Path) -> Result<Self> {
        let mut found = Self::default();
        let folder = root.parent().context("the root file's folder")?;
        found.add_file(root, folder, Names::new())?;
        Ok(found)
    }

    fn add_file(&mut self, file: &Path, folder: &Path, path: Names) -> Result<()> {
        let what = || format!("read {}", file.display());
        let text = std::fs::read_to_string(file).with_context(what)?;
        let parsed = syn::parse_file(&text).with_context(what)?;
        self.add(&parsed.items, folder, path)
    }

    fn add(&mut self, items: &[Item], folder: &Path, path: Names) -> Result<()> {
        let mut module = Module::default();
        for item in items.iter().filter(|item| !is_of_tests(item)) {
            match item {
                Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let child: Names = path.iter().cloned().chain([name.clone()]).collect();
                    match &inner.content {
                        Some((_, items)) => self.add(items, &folder.join(&name), child)?,
                        None => self.add_file(&module_file(folder, &name)?, &folder.join(&name), child)?,
                    }
                }
                Item::Use(import) => module.import(&import.tree, &mut Names::new()),
                item => Paths(&mut module.named).visit_item(item),
            }
        }
        self.modules.insert(path, module);
        Ok(())
    }

    /// Each circle: the modules of it, beginning with the first by name, as `a -> b -> a`.
    pub fn circles(&self) -> Vec<String> {
        let mut circles = Vec::new();
        for (parent, edges) in self.sibling_edges() {
            let prefix: String = parent.iter().map(|name| format!("{name}::")).collect();
            for members in circles_of(&edges) {
                circles.push(format!("{prefix}{{{}}}", members.join(", ")));
            }
        }
        circles
    }

    /// For each module, which of its children need which others.
    fn sibling_edges(&self) -> BTreeMap<Names, BTreeMap<String, BTreeSet<String>>> {
        let mut edges: BTreeMap<Names, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (from, module) in &self.modules {
            let named = module.named.iter().chain(module.imports.values()).chain(&module.globs);
            for target in named.filter_map(|path| self.resolve(from, path, DEPTH)) {
                let shared = from.iter().zip(&target).take_while(|(a, b)| a == b).count();
                if let (Some(a), Some(b)) = (from.get(shared), target.get(shared)) {
                    let parent = edges.entry(from[..shared].to_vec()).or_default();
                    parent.entry(a.clone()).or_default().insert(b.clone());
                }
            }
        }
        edges
    }

    /// The module in which what a path names is declared, or nothing for what belongs to another crate.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<Names> {
        let (first, mut rest) = path.split_first()?;
        let mut place = match first.as_str() {
            "crate" => Names::new(),
            "self" => from.to_vec(),
            "super" => from.split_last()?.1.to_vec(),
            name => {
                rest = path;
                let child: Names = from.iter().cloned().chain([name.to_owned()]).collect();
                let known =
                    self.modules.contains_key(&child) || self.modules.get(from)?.imports.contains_key(name);
                if !known {
                    return None;
                }
                from.to_vec()
            }
        };
        for (index, name) in rest.iter().enumerate() {
            if name == "super" {
                place.pop()?;
                continue;
            }
            let child: Names = place.iter().cloned().chain([name.clone()]).collect();
            if self.modules.contains_key(&child) {
                place = child;
                continue;
            }
            let module = self.modules.get(&place)?;
            let Some(import) = module.imports.get(name).filter(|_| depth > 0) else { break };
            // `use name;` of another crate's name stands for itself.
            if import.as_slice() == [name.clone()] {
                return None;
            }
            let whole: Names = import.iter().chain(&rest[index + 1..]).cloned().collect();
            return self.resolve(&place, &whole, depth - 1);
        }
        Some(place)
    }
}

impl Module {
    fn import(&mut self, tree: &UseTree, before: &mut Names) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before);
                before.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                let alias = before.last().cloned().unwrap_or_default();
                self.imports.insert(alias, before.clone());
            }
            UseTree::Name(name) => self.rename(before, &name.ident.to_string(), &name.ident.to_string()),
            UseTree::Rename(rename) => {
                self.rename(before, &rename.ident.to_string(), &rename.rename.to_string())
            }
            UseTree::Glob(_) => self.globs.push(before.clone()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before)),
        }
    }

    fn rename(&mut self, before: &[String], name: &str, alias: &str) {
        let whole = if name == "self" { before.to_vec() } else { [before, &[name.to_owned()]].concat() };
        // Two traits may come as `_`.
        let alias = if alias == "_" { whole.join("::") } else { alias.to_owned() };
        self.imports.insert(alias, whole);
    }
}

/// Collects paths, those in macros' arguments too.
struct Paths<'a>(&'a mut BTreeSet<Names>);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 && path.leading_colon.is_none() {
            self.0.insert(names);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        syn::visit::visit_macro(self, call);
    }

    fn visit_item_mod(&mut self, _: &'ast syn::ItemMod) {}
}

impl Paths<'_> {
    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        use proc_macro2::TokenTree;
        let (mut names, mut colons) = (Names::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end(&mut names);
                    }
                    names.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' && !names.is_empty() => colons += 1,
                TokenTree::Group(group) => {
                    self.end(&mut names);
                    self.tokens(group.stream());
                    colons = 0;
                }
                _ => {
                    self.end(&mut names);
                    colons = 0;
                }
            }
        }
        self.end(&mut names);
    }

    fn end(&mut self, names: &mut Names) {
        let names = std::mem::take(names);
        if names.len() > 1 {
            self.0.insert(names);
        }
    }
}

fn module_file(folder: &Path, name: &str) -> Result<PathBuf> {
    let places = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
    let found = places.into_iter().find(|place| place.exists());
    found.with_context(|| format!("no file of module {name} in {}", folder.display()))
}

fn is_of_tests(item: &Item) -> bool {
    let attributes: &[Attribute] = match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Const(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        _ => &[],
    };
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

/// The sets of nodes that reach each other, each sorted.
fn circles_of(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reach = |start: &String| -> BTreeSet<String> {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(node) = next.pop() {
            for target in edges.get(node).into_iter().flatten() {
                if seen.insert(target.clone()) {
                    next.push(target);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = edges.keys().map(|node| (node, reach(node))).collect();
    let mut circles = BTreeSet::new();
    for (node, from) in &reached {
        let members: Vec<String> = reached
            .iter()
            .filter(|(other, to)| from.contains(**other) && to.contains(*node))
            .map(|(other, _)| (*other).clone())
            .collect();
        if members.len() > 1 {
            circles.insert(members);
        }
    }
    circles.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(text: &str) -> Vec<String> {
        let mut found = Crate::default();
        let parsed = syn::parse_file(text).unwrap();
        found.add(&parsed.items, Path::new("/none"), Names::new()).unwrap();
        found.circles()
    }

    #[test]
    fn two_that_need_each_other_are_a_circle() {
        assert_eq!(
            circles("mod a { use crate::b::B; } mod b { pub struct B; fn f() { super::a::g(); } }"),
            ["{a, b}"]
        );
        assert!(circles("mod a { use crate::b::B; } mod b { pub struct B; }").is_empty());
    }

    #[test]
    fn inner_modules_count_as_the_sibling_they_are_in() {
        let text = "mod x { pub mod a { pub mod deep { use super::super::b::B; } } pub mod b { pub struct B; use crate::x::a::deep; } }";
        assert_eq!(circles(text), ["x::{a, b}"]);
    }

    #[test]
    fn a_re_export_is_what_it_names() {
        let text = "mod a { pub use crate::c::C; } mod b { use crate::a::C; } mod c { pub struct C; use crate::b::f; }";
        assert_eq!(circles(text), ["{b, c}"]);
        let root = "pub use b::B; mod a { use crate::B; } mod b { pub struct B; use crate::a::f; }";
        assert_eq!(circles(root), ["{a, b}"]);
    }

    #[test]
    fn tests_and_other_crates_are_no_part_of_it() {
        let text = "mod a { use b::X; use std::fmt; } mod b { #[cfg(test)] mod tests { use crate::a::f; } }";
        assert!(circles(text).is_empty());
    }

    #[test]
    fn paths_in_macros_count() {
        let text = "mod a { fn f() { println!(\"{}\", crate::b::X); } } mod b { pub const X: u8 = 1; fn g() { vec![crate::a::f()]; } }";
        assert_eq!(circles(text), ["{a, b}"]);
    }
}
