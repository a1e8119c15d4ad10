//! The images that critest pulls, with what its specs expect of each, and the image of the suite itself.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use crate::debian::Packages;
use crate::oci::{Image, Layer};
use qemu_tests::command::command_output;

/// The host in the name of the suite's own image.
pub const SUITE_HOST: &str = "suite.pintle.dev";
/// The repository of the suite's own image.
pub const SUITE: &str = "critest";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                      default-user:x:1000:1000::/home/default-user:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\ndefault-user:x:1000:\n\
                     group-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n";

/// The Debian packages that images take programs from.
pub const PACKAGES: &[&str] = &["busybox", "apparmor"];

/// Programs that go into images.
#[derive(Debug)]
pub struct Programs {
    pub tools: PathBuf,
    pub critest: PathBuf,
    /// Debian's [`PACKAGES`].
    pub packages: Packages,
}

/// Every image.
///
/// # Errors
/// When a program cannot be read.
pub fn all(programs: &Programs) -> Result<Vec<Image>> {
    let busybox = busybox(programs)?;
    let mut images = vec![
        image("e2e-test-images/busybox", &["1.29-2"], &busybox, json!({"Cmd": ["sh"]})),
        web(&busybox, programs, "e2e-test-images/nginx", "1.14-2", "80")?,
        web(&busybox, programs, "k8s-staging-cri-tools/hostnet-nginx-amd64", "latest", "12003")?,
        Image {
            repository: "pause".into(),
            tags: vec!["3.9".into()],
            layers: vec![Layer::default().program("pause", &programs.tools)?],
            config: json!({"Entrypoint": ["/pause"]}),
        },
        Image {
            repository: "e2e-test-images/httpd".into(),
            tags: vec!["2.4.39-4".into()],
            layers: vec![busybox.clone(), Layer::default().program("usr/sbin/httpd", &programs.tools)?],
            config: json!({"Cmd": ["/usr/sbin/httpd"]}),
        },
        Image {
            repository: "e2e-test-images/nonewprivs".into(),
            tags: vec!["1.3".into()],
            layers: vec![Layer::default().file("nonewprivs", std::fs::read(&programs.tools)?, 0o4755)],
            config: json!({"Entrypoint": ["/nonewprivs"]}),
        },
        suite(programs)?,
    ];
    let small = |name: &str, tags: &[&str], mut config: Value| {
        config["Cmd"] = json!(["sh"]);
        image(&format!("k8s-staging-cri-tools/{name}"), tags, &busybox, config)
    };
    for name in ["test-image-1", "test-image-2", "test-image-3", "test-image-latest"] {
        images.push(small(name, &["latest"], json!({})));
    }
    images.push(small("test-image-tags", &["1", "2", "3"], json!({})));
    images.push(small("test-image-tag", &["test"], json!({})));
    images.push(small("test-image-tag", &["all"], json!({})));
    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1003"),
        ("test-image-user-username-group", "www-data:www-data"),
        ("test-image-predefined-group", "1000"),
    ] {
        images.push(small(name, &["latest"], json!({"User": user})));
    }
    Ok(images)
}

fn image(repository: &str, tags: &[&str], layer: &Layer, config: Value) -> Image {
    Image {
        repository: repository.to_owned(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        layers: vec![layer.clone()],
        config,
    }
}

/// Debian's busybox with its own names and libraries, and the two that it lacks. It is not the static one, whose shell runs its own `ls` even where
/// `/bin/ls` is masked.
fn busybox(programs: &Programs) -> Result<Layer> {
    let program = programs.packages.find("bin/busybox")?;
    let mut layer = Layer::default().program("bin/busybox", &program)?;
    layer = with_libraries(layer, &programs.packages, &program)?;
    for name in command_output(Command::new(&program).arg("--list"))?.lines() {
        if name != "busybox" {
            layer = layer.link(&format!("bin/{name}"), "busybox");
        }
    }
    // A file of its own: masking a link would mask all of busybox.
    layer = layer.program("bin/ls", &program)?;
    layer = layer.program("bin/tools", &programs.tools)?;
    for name in ["ipcs", "pgrep", "ipcmk", "sudo", "pod-cidr"] {
        layer = layer.link(&format!("bin/{name}"), "tools");
    }
    layer = layer.file("etc/passwd", PASSWD, 0o644).file("etc/group", GROUP, 0o644);
    layer = layer.folder("tmp", 0o1777).folder("root", 0o700).folder("var/run", 0o755).folder("home", 0o755);
    Ok(layer)
}

fn web(busybox: &Layer, programs: &Programs, repository: &str, tag: &str, port: &str) -> Result<Image> {
    let mut image = image(repository, &[tag], busybox, json!({"Cmd": ["/usr/sbin/nginx"]}));
    let nginx = Layer::default().program("usr/sbin/nginx", &programs.tools)?;
    image.layers.push(nginx.file("etc/nginx/port", port, 0o644));
    Ok(image)
}

/// critest with what it calls: sudo, ipcmk and the AppArmor parser with its libraries.
fn suite(programs: &Programs) -> Result<Image> {
    let packages = &programs.packages;
    let parser = packages.find("sbin/apparmor_parser")?;
    let mut layer = Layer::default().program("bin/critest", &programs.critest)?;
    layer = layer.program("sbin/apparmor_parser", &parser)?;
    layer = layer.file(
        "etc/apparmor/parser.conf",
        std::fs::read(packages.find("etc/apparmor/parser.conf")?)?,
        0o644,
    );
    let features = "usr/share/apparmor-features/features";
    layer = layer.file(features, std::fs::read(packages.find(features)?)?, 0o644);
    layer = layer.folder("var/cache/apparmor", 0o755).folder("etc/apparmor.d", 0o755);
    // What profiles include.
    for folder in ["abi", "abstractions", "tunables"] {
        let path = format!("etc/apparmor.d/{folder}");
        layer = with_folder(layer, &path, &packages.find(&path)?)?;
    }
    layer = with_libraries(layer, packages, &parser)?;
    let mut image = image(SUITE, &["v1"], &busybox(programs)?, json!({}));
    image.layers.push(layer);
    Ok(image)
}

/// A folder with everything in it, in an order of its own.
fn with_folder(layer: Layer, path: &str, from: &Path) -> Result<Layer> {
    let mut layer = layer.folder(path, 0o755);
    let mut entries = std::fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, from) = (format!("{path}/{}", entry.file_name().to_string_lossy()), entry.path());
        layer = if from.is_dir() {
            with_folder(layer, &path, &from)?
        } else {
            layer.file(&path, std::fs::read(&from)?, 0o644)
        };
    }
    Ok(layer)
}

fn with_libraries(mut layer: Layer, packages: &Packages, program: &Path) -> Result<Layer> {
    for (path, library) in packages.libraries(program)? {
        layer = layer.program(&path, &library)?;
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_has_a_config_of_its_own() {
        let busybox = Layer::default();
        let a = image("one", &["latest"], &busybox, json!({})).blobs().unwrap();
        let b = image("two", &["latest"], &busybox, json!({})).blobs().unwrap();
        assert_eq!(a[0].hex, b[0].hex);
        assert_ne!(a[1].hex, b[1].hex);
    }
}
