//! init's own lines: to the kernel log, and to the console when `quiet` keeps the kernel log off it. Nothing here blocks.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use nix::libc::{O_NOCTTY, O_NONBLOCK};

#[derive(Debug)]
struct Outputs {
    kmsg: Option<File>,
    console: Option<File>,
    quiet: bool,
}

static OUTPUTS: OnceLock<Outputs> = OnceLock::new();

fn outputs() -> &'static Outputs {
    OUTPUTS.get_or_init(|| {
        // The kernel would drop lines of a busy boot.
        let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
        let level = fs::read_to_string("/proc/sys/kernel/printk").unwrap_or_default();
        let level: u32 = level.split_whitespace().next().and_then(|l| l.parse().ok()).unwrap_or(7);
        let open = |path| OpenOptions::new().write(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path).ok();
        Outputs { kmsg: open("/dev/kmsg"), console: open("/dev/console"), quiet: level <= 6 }
    })
}

/// Whether the kernel was told to be quiet: then services' lines stay off the console.
pub fn is_quiet() -> bool {
    outputs().quiet
}

/// Writes one line of init's own.
pub fn line(text: &str) {
    let outputs = outputs();
    let text = text.trim_end();
    if let Some(mut kmsg) = outputs.kmsg.as_ref() {
        let _ = kmsg.write_all(format!("<6>pintle: {text}").as_bytes());
    }
    if outputs.quiet || outputs.kmsg.is_none() {
        raw(&format!("pintle: {text}\r\n"));
    }
}

/// Writes one line of a service to the console, unless the kernel was told to be quiet.
pub fn service_line(service: &str, text: &[u8]) {
    if !is_quiet() {
        raw(&format!("{service}: {}\r\n", String::from_utf8_lossy(text)));
    }
}

fn raw(text: &str) {
    if let Some(mut console) = outputs().console.as_ref() {
        // A console that does not keep up loses lines; the kernel log and the services' files have them.
        let _ = console.write(text.as_bytes());
    }
}

/// What tracing writes to.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConsoleWriter;

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in String::from_utf8_lossy(bytes).lines().filter(|l| !l.trim().is_empty()) {
            line(part.trim());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends tracing's lines and panics' messages to the console and the kernel log.
pub fn install() {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn,init=info"))
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(|| ConsoleWriter)
        .finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
    std::panic::set_hook(Box::new(|panic| line(&format!("ERROR {panic}; the task is started again"))));
}
