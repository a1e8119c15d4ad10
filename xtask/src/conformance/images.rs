//! The images that the specs pull: programs of the module and Debian packages. Their names are those that `e2e.test` itself lists.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use qemu_tests::command::command_output;
use serde_json::{Value, json};

use super::programs::Programs;
use crate::artifacts::key;
use crate::debian::{LIBRARY_FOLDER, Packages};
use crate::host;
use crate::oci::{Image, Layer, registry};

/// Packages of the executables and of every library they need.
const PACKAGES: &[&str] = &[
    "bash-static",
    "bind9-dnsutils",
    "bind9-libs",
    "busybox-static",
    "ca-certificates",
    "curl",
    "libbrotli1",
    "libbsd0",
    "libc-bin",
    "libc6",
    "libcap2",
    "libcom-err2",
    "libcrypt1",
    "libcurl4",
    "libffi8",
    "libfstrm0",
    "libgcc-s1",
    "libgmp10",
    "libgnutls30",
    "libgssapi-krb5-2",
    "libhogweed6",
    "libicu72",
    "libidn2-0",
    "libjson-c5",
    "libk5crypto3",
    "libjemalloc2",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libldap-2.5-0",
    "liblmdb0",
    "liblzma5",
    "libmaxminddb0",
    "libmd0",
    "libnettle8",
    "libnghttp2-14",
    "libp11-kit0",
    "libpcre2-8-0",
    "libprotobuf-c1",
    "libpsl5",
    "librtmp1",
    "libsasl2-2",
    "libssh2-1",
    "libssl3",
    "libstdc++6",
    "libtasn1-6",
    "libunistring2",
    "libuv1",
    "libxml2",
    "libzstd1",
    "netcat-openbsd",
    "nginx",
    "zlib1g",
];
/// What an image for network tests has beside busybox.
const TOOLS: &[&str] = &["usr/bin/curl", "usr/bin/dig", "usr/bin/getent", "bin/nc.openbsd"];
const NGINX: &str = "usr/sbin/nginx";

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                      user-defined-in-image:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nuser-defined-in-image:x:1000:\n\
                     group-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n";
/// Specs of image volumes look for it, as every image that upstream builds on Debian or Alpine has it.
const OS_RELEASE: &str = "ID=debian\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";
const NGINX_CONFIG: &str = "error_log /dev/stderr notice;\npid /tmp/nginx.pid;\nevents {}\nhttp {\n  \
                            default_type text/plain;\n  types { text/html html; }\n  access_log /dev/stdout;\n  server {\n    \
                            listen 80;\n    root /usr/share/nginx/html;\n    index index.html;\n  }\n}\n";
const NGINX_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n";
/// What the images are made of beside packages and programs.
const SOURCES: [&str; 3] =
    [include_str!("images.rs"), include_str!("../oci/mod.rs"), include_str!("../oci/layer.rs")];

/// The images that we have a recipe for, by their last name.
const RECIPES: [&str; 9] = [
    "agnhost",
    "busybox",
    "glibc-dns-testing",
    "kitten",
    "nautilus",
    "nginx",
    "nonewprivs",
    "nonroot",
    "pause",
];

/// The full names, with host and tag, of the images that are served.
///
/// # Errors
/// When the program does not run.
pub fn names(programs: &Programs) -> Result<Vec<String>> {
    let list = command_output(Command::new(programs.program("e2e.test")).arg("-list-images"))?;
    Ok(list.lines().map(str::trim).filter(|name| has_recipe(name)).map(str::to_owned).collect())
}

/// One name stands for a registry that refuses strangers; specs expect that it does.
fn has_recipe(name: &str) -> bool {
    if name.contains("authenticated") {
        return false;
    }
    let last = name.rsplit('/').next().and_then(|last| last.split(':').next());
    last.is_some_and(|last| RECIPES.contains(&last))
}

/// Builds the folder of a registry with every image that we have a recipe for; kept by its inputs.
///
/// # Errors
/// When a package cannot be fetched or an image not be written.
pub fn registry_folder(programs: &Programs) -> Result<PathBuf> {
    let packages = Packages::fetch(PACKAGES)?;
    let mut inputs = vec![programs.folder.display().to_string()];
    inputs.extend(SOURCES.map(str::to_owned));
    inputs.push(packages.key.clone());
    let folder = host::target().join("conformance").join(format!("registry-{}", key(&inputs)));
    registry::filled(folder, |part| {
        let layers = Layers::new(programs, &packages, part)?;
        for name in names(programs)? {
            let image = layers.image(&name).with_context(|| format!("no recipe for the image {name}"))?;
            registry::add(part, &image).with_context(|| format!("add the image {name}"))?;
        }
        Ok(())
    })
}

/// The parts that images share.
#[derive(Debug)]
struct Layers {
    busybox: Layer,
    tools: Layer,
    agnhost: Layer,
    nginx: Layer,
    nonewprivs: Layer,
    pause: Layer,
    kitten: Layer,
    nautilus: Layer,
}

impl Layers {
    fn new(programs: &Programs, packages: &Packages, work: &Path) -> Result<Self> {
        let images = programs.source.join("test/images");
        let picture = |name: &str| -> Result<Layer> {
            let html = images.join(name).join("html");
            let file = |name: &str| std::fs::read(html.join(name)).with_context(|| format!("read {name}"));
            let jpg = format!("{name}.jpg");
            Ok(Layer::default().file(&jpg, file(&jpg)?, 0o644).file("data.json", file("data.json")?, 0o644))
        };
        let nonewprivs = std::fs::read(programs.program("nonewprivs"))?;
        Ok(Self {
            busybox: busybox(packages)?,
            tools: executables(packages, TOOLS)?.link("usr/bin/nc", "/bin/nc.openbsd"),
            agnhost: agnhost(programs)?,
            nginx: executables(packages, &[NGINX])?
                .file("etc/nginx/nginx.conf", NGINX_CONFIG, 0o644)
                .file("usr/share/nginx/html/index.html", NGINX_PAGE, 0o644)
                .folder("var/lib/nginx", 0o755)
                .folder("var/log/nginx", 0o755),
            // It tells whether the set-user-ID bit had an effect.
            nonewprivs: Layer::default().file("usr/local/bin/nnp", nonewprivs, 0o6755),
            pause: Layer::default().program("pause", &pause(&programs.source, work)?)?,
            kitten: picture("kitten")?,
            nautilus: picture("nautilus")?,
        })
    }

    /// The image of this name, if it is one that we build.
    fn image(&self, name: &str) -> Option<Image> {
        let (_, path) = name.split_once('/')?;
        let (repository, tag) = path.rsplit_once(':')?;
        let (layers, config) = self.recipe(repository.rsplit('/').next()?)?;
        Some(Image {
            repository: repository.to_owned(),
            tags: vec![tag.to_owned()],
            layers: layers.into_iter().cloned().collect(),
            config,
        })
    }

    fn recipe(&self, name: &str) -> Option<(Vec<&Layer>, Value)> {
        let path = json!([PATH]);
        Some(match name {
            "agnhost" => (vec![&self.busybox, &self.tools, &self.agnhost], agnhost_config()),
            "kitten" | "nautilus" => (
                vec![
                    &self.busybox,
                    &self.tools,
                    &self.agnhost,
                    if name == "kitten" { &self.kitten } else { &self.nautilus },
                ],
                json!({"Env": path, "Entrypoint": ["/agnhost"], "Cmd": ["test-webserver"]}),
            ),
            "busybox" => (vec![&self.busybox], json!({"Env": path, "Cmd": ["sh"]})),
            "glibc-dns-testing" => (vec![&self.busybox, &self.tools], json!({"Env": path, "Cmd": ["bash"]})),
            "nginx" => (
                vec![&self.busybox, &self.nginx],
                json!({"Env": path, "Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT"}),
            ),
            "nonewprivs" => (vec![&self.busybox, &self.nonewprivs], json!({"Env": path, "Cmd": ["nnp"]})),
            "nonroot" => (vec![&self.busybox], json!({"Env": path, "Cmd": ["sh"], "User": "1234"})),
            "pause" => {
                (vec![&self.pause], json!({"Env": path, "Entrypoint": ["/pause"], "User": "65535:65535"}))
            }
            _ => return None,
        })
    }
}

/// What the image with [`agnhost`] runs.
pub(super) fn agnhost_config() -> Value {
    json!({"Env": [PATH], "Entrypoint": ["/agnhost"], "Cmd": ["pause"]})
}

/// The program that most specs use, with the files it looks for.
pub(super) fn agnhost(programs: &Programs) -> Result<Layer> {
    let porter = programs.source.join("test/images/agnhost/porter");
    Ok(Layer::default()
        .program("agnhost", &programs.program("agnhost"))?
        .link("agnhost-2", "agnhost")
        .folder("uploads", 0o755)
        .file("localhost.crt", std::fs::read(porter.join("localhost.crt"))?, 0o644)
        .file("localhost.key", std::fs::read(porter.join("localhost.key"))?, 0o644))
}

/// Debian's static busybox under all its names but `sh`: its shell drops variables whose names are no identifiers, which specs look for.
pub(super) fn busybox(packages: &Packages) -> Result<Layer> {
    let program = packages.find("bin/busybox")?;
    let mut layer = Layer::default().program("bin/busybox", &program)?;
    for name in command_output(Command::new(&program).arg("--list"))?.lines() {
        if name != "busybox" && name != "sh" {
            layer = layer.link(&format!("bin/{name}"), "busybox");
        }
    }
    layer = layer.program("bin/bash", &packages.find("bin/bash-static")?)?.link("bin/sh", "bash");
    for (name, text) in
        [("passwd", PASSWD), ("group", GROUP), ("nsswitch.conf", NSSWITCH), ("os-release", OS_RELEASE)]
    {
        layer = layer.file(&format!("etc/{name}"), text, 0o644);
    }
    let root = layer.folder("root", 0o700).folder("home", 0o755);
    Ok(root.folder("tmp", 0o1777).folder("var/run", 0o755).folder("usr/bin", 0o755))
}

/// Executables of the packages with the libraries they need.
pub(super) fn executables(packages: &Packages, paths: &[&str]) -> Result<Layer> {
    let mut layer = Layer::default();
    for path in paths {
        layer = layer.program(path, &packages.find(path)?)?;
    }
    // Names of hosts and users are found by a library that is loaded while running.
    let resolver = format!("{LIBRARY_FOLDER}/libresolv.so.2");
    let mut libraries = BTreeMap::from([(resolver.clone(), packages.find(&resolver)?)]);
    for path in paths {
        libraries.extend(packages.libraries(&packages.find(path)?)?);
    }
    for (path, library) in &libraries {
        layer = layer.program(path, library)?;
    }
    Ok(layer)
}

/// The module's pause program, which is C.
fn pause(source: &Path, work: &Path) -> Result<PathBuf> {
    let program = work.join("pause");
    let done = Command::new("gcc")
        .args(["-Os", "-static", "-Wl,--build-id=none", "-s", "-o"])
        .arg(&program)
        .arg(source.join("build/pause/linux/pause.c"))
        .output()
        .context("run gcc")?;
    if !done.status.success() {
        bail!("gcc cannot build pause: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_their_last_name() {
        assert!(has_recipe("registry.example/e2e-test-images/agnhost:2.66.1"));
        assert!(has_recipe("registry.example/pause:3.10.2"));
        assert!(!has_recipe("registry.example/e2e-test-images/volume/nfs:1.6.0"));
        assert!(!has_recipe("registry.example/authenticated-test/agnhost:2.6"));
    }
}
