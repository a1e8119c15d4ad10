//! Which disk a machine's state or a volume goes to: pure functions over what the scan saw.
use machine::config::{DiskSelector, Install};
use machine::paths::STATE_PARTITION;

use super::probe::Content;
use super::scan::Device;

/// A partition whose file system is being made; whoever finds it makes it again.
pub const HALF_MADE: &str = "PINTLE-FORMATTING";
/// The first slot of an image written to a disk.
const ROOT_SLOT: &str = "PINTLE-ROOT-A";
/// Smaller disks do not hold a node.
const SMALLEST: u64 = 1 << 30;

/// What to do for a file system to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The partition is there with its file system.
    Mount(String),
    /// The partition is there and has no file system yet.
    Format { partition: String, disk: String },
    /// The disk becomes ours; `wipe` when it holds data that its owner gave up.
    Partition { disk: String, wipe: bool },
    /// The disk holds an installed image of ours and room: a partition is added to it.
    Append { disk: String },
    /// Nothing can be done now, and why.
    Wait(String),
}

/// Chooses for the state. Without a machine config only a partition that exists is taken: nothing says yet that this machine is to be a node.
pub fn choose_state(devices: &[Device], install: Option<&Install>, configured: bool) -> Choice {
    let selector = install.map(|i| &i.disk);
    if let Some(choice) = existing(devices, STATE_PARTITION, selector, configured) {
        return choice;
    }
    if !configured {
        return Choice::Wait(format!(
            "no partition is named {STATE_PARTITION}, and no machine config is there"
        ));
    }
    let wipe = install.is_some_and(|i| i.wipe);
    let selector = selector.filter(|s| **s != DiskSelector::default());
    match (installed(devices, selector), selector) {
        (Some(disk), _) => Choice::Append { disk },
        (None, Some(selector)) => selected(devices, selector, wipe),
        (None, None) => only_blank(devices),
    }
}

/// The one disk that an image of ours was written to, if it has room behind it.
fn installed(devices: &[Device], selector: Option<&DiskSelector>) -> Option<String> {
    let has = |disk: &Device, name: &str| {
        devices.iter().any(|d| d.parent.as_ref() == Some(&disk.name) && d.partition_name == name)
    };
    let room = |disk: &Device| {
        let parts = devices.iter().filter(|d| d.parent.as_ref() == Some(&disk.name));
        disk.size.saturating_sub(parts.map(|d| d.size).sum())
    };
    let mut found = devices.iter().filter(|disk| {
        has(disk, ROOT_SLOT)
            && !disk.read_only
            && room(disk) >= SMALLEST
            && selector.is_none_or(|selector| matches(selector, disk))
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Some(one.name.clone()),
        _ => None,
    }
}

/// Chooses for a `Volume` document: its own named partition, or the whole blank disk that it selects.
pub fn choose_volume(devices: &[Device], partition_name: &str, selector: &DiskSelector) -> Choice {
    existing(devices, partition_name, Some(selector), true)
        .unwrap_or_else(|| selected(devices, selector, false))
}

/// A partition of the name, or one that was being made when the power went.
fn existing(
    devices: &[Device],
    name: &str,
    selector: Option<&DiskSelector>,
    may_format: bool,
) -> Option<Choice> {
    let on_selected_disk = |d: &&Device| match selector {
        Some(selector) => {
            devices.iter().any(|disk| d.parent.as_deref() == Some(&disk.name) && matches(selector, disk))
        }
        None => true,
    };
    let mut named: Vec<&Device> =
        devices.iter().filter(|d| d.partition_name == name && d.parent.is_some()).collect();
    if named.len() > 1 {
        named.retain(on_selected_disk);
    }
    if let [one] = named[..] {
        let disk = one.parent.clone().unwrap_or_default();
        return Some(match &one.content {
            Content::Ext4 { .. } => Choice::Mount(one.name.clone()),
            Content::Blank if may_format => Choice::Format { partition: one.name.clone(), disk },
            Content::Blank => Choice::Wait(format!("{} is blank, and no machine config is there", one.name)),
            other => Choice::Wait(format!(
                "partition {} is named {name} but holds {}; erase it or choose another disk with an Install document",
                one.name,
                other.describe()
            )),
        });
    }
    if named.len() > 1 {
        let names: Vec<&str> = named.iter().map(|d| d.name.as_str()).collect();
        return Some(Choice::Wait(format!(
            "{} are all named {name}; name the disk in an Install document",
            names.join(" and ")
        )));
    }
    let half = devices.iter().filter(|d| d.partition_name == HALF_MADE).find(on_selected_disk)?;
    may_format.then(|| Choice::Format {
        partition: half.name.clone(),
        disk: half.parent.clone().unwrap_or_default(),
    })
}

fn selected(devices: &[Device], selector: &DiskSelector, wipe: bool) -> Choice {
    let found: Vec<&Device> = devices.iter().filter(|d| matches(selector, d)).collect();
    match found[..] {
        [] => Choice::Wait(format!("no disk matches the selector ({})", list(devices))),
        [disk] if disk.read_only => Choice::Wait(format!("{} is read-only", disk.name)),
        [disk] if is_blank(devices, disk) => Choice::Partition { disk: disk.name.clone(), wipe: false },
        [disk] if wipe => Choice::Partition { disk: disk.name.clone(), wipe: true },
        [disk] => Choice::Wait(format!(
            "{} holds {} and stays untouched; `wipe: true` in the Install document gives it up",
            disk.name,
            disk.content.describe()
        )),
        _ => Choice::Wait(format!("more than one disk matches the selector ({})", list(devices))),
    }
}

fn only_blank(devices: &[Device]) -> Choice {
    let candidates: Vec<&Device> = devices
        .iter()
        .filter(|d| d.parent.is_none() && !d.removable && !d.read_only && d.size >= SMALLEST)
        .filter(|d| is_blank(devices, d))
        .collect();
    match candidates[..] {
        [disk] => Choice::Partition { disk: disk.name.clone(), wipe: false },
        [] => Choice::Wait(format!("no blank disk of at least 1 GiB is there ({})", list(devices))),
        _ => Choice::Wait(format!(
            "more than one blank disk is there ({}); choose one with an Install document",
            list(devices)
        )),
    }
}

fn is_blank(devices: &[Device], disk: &Device) -> bool {
    disk.content == Content::Blank && !devices.iter().any(|d| d.parent.as_deref() == Some(&disk.name))
}

fn matches(selector: &DiskSelector, disk: &Device) -> bool {
    let path = disk.path();
    disk.parent.is_none()
        && selector.path.as_ref().is_none_or(|wanted| match wanted.strip_prefix("/dev/disk/by-id/") {
            Some(id) => disk.ids.iter().any(|own| own == id),
            None => *wanted == path.display().to_string(),
        })
        && selector.serial.as_ref().is_none_or(|s| *s == disk.serial)
        && selector.model.as_ref().is_none_or(|m| *m == disk.model)
        && selector.min_size.is_none_or(|size| disk.size >= size)
}

fn list(devices: &[Device]) -> String {
    let disks: Vec<String> = devices
        .iter()
        .filter(|d| d.parent.is_none())
        .map(|d| format!("{}: {} MiB, {}", d.name, d.size >> 20, d.content.describe()))
        .collect();
    if disks.is_empty() { "there is no disk".into() } else { disks.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, content: Content) -> Device {
        Device {
            name: name.into(),
            parent: None,
            size: 10 << 30,
            removable: false,
            read_only: false,
            partition_name: String::new(),
            serial: format!("serial-{name}"),
            model: String::new(),
            ids: vec![format!("virtio-serial-{name}")],
            content,
        }
    }

    fn part(name: &str, parent: &str, partition_name: &str, content: Content) -> Device {
        let partition_name = partition_name.into();
        Device { parent: Some(parent.into()), partition_name, ..disk(name, content) }
    }

    fn ext4() -> Content {
        Content::Ext4 { label: String::new(), size: 0 }
    }

    fn blank_takes(disk: &str) -> Choice {
        Choice::Partition { disk: disk.into(), wipe: false }
    }

    #[test]
    fn the_named_partition_wins_even_without_a_config() {
        let devices = [
            disk("vda", Content::Other("a GPT")),
            part("vda4", "vda", STATE_PARTITION, ext4()),
            disk("vdb", Content::Blank),
        ];
        assert_eq!(choose_state(&devices, None, false), Choice::Mount("vda4".into()));
    }

    #[test]
    fn the_only_blank_disk_is_taken_once_there_is_a_config() {
        let devices = [disk("vda", Content::Other("a GPT")), disk("vdb", Content::Blank)];
        assert!(matches!(choose_state(&devices, None, false), Choice::Wait(_)));
        assert_eq!(choose_state(&devices, None, true), blank_takes("vdb"));
        let two = [disk("vda", Content::Blank), disk("vdb", Content::Blank)];
        assert!(matches!(choose_state(&two, None, true), Choice::Wait(why) if why.contains("more than one")));
    }

    #[test]
    fn data_is_never_touched_without_wipe() {
        let devices = [disk("vda", Content::Other("an XFS file system"))];
        let mut install = Install::default();
        install.disk.serial = Some("serial-vda".into());
        assert!(
            matches!(choose_state(&devices, Some(&install), true), Choice::Wait(why) if why.contains("XFS"))
        );
        install.wipe = true;
        assert_eq!(
            choose_state(&devices, Some(&install), true),
            Choice::Partition { disk: "vda".into(), wipe: true }
        );
        assert!(matches!(choose_state(&devices, None, true), Choice::Wait(_)));
    }

    #[test]
    fn a_disk_is_found_by_its_lasting_name() {
        let devices = [disk("vda", Content::Blank), disk("vdb", Content::Blank)];
        let mut install = Install::default();
        install.disk.path = Some("/dev/disk/by-id/virtio-serial-vdb".into());
        assert_eq!(choose_state(&devices, Some(&install), true), blank_takes("vdb"));
        install.disk.path = Some("/dev/disk/by-id/virtio-other".into());
        assert!(matches!(choose_state(&devices, Some(&install), true), Choice::Wait(_)));
    }

    #[test]
    fn an_installed_disk_with_room_takes_the_state_even_beside_a_blank_one() {
        let gpt = || Content::Other("a GPT");
        let slot = Device { size: 1 << 30, ..part("vda2", "vda", ROOT_SLOT, Content::Other("an EROFS")) };
        let mut devices = vec![disk("vda", gpt()), slot, disk("vdb", Content::Blank)];
        assert_eq!(choose_state(&devices, None, true), Choice::Append { disk: "vda".into() });
        assert!(matches!(choose_state(&devices, None, false), Choice::Wait(_)));
        let mut install = Install::default();
        install.disk.serial = Some("serial-vdb".into());
        assert_eq!(choose_state(&devices, Some(&install), true), blank_takes("vdb"));
        devices[0].size = 2 << 30;
        devices[1].size = 2 << 30;
        assert_eq!(choose_state(&devices, None, true), blank_takes("vdb"));
    }

    #[test]
    fn a_blank_first_block_over_a_partition_is_not_a_blank_disk() {
        let devices = [disk("vda", Content::Blank), part("vda1", "vda", "data", ext4())];
        assert!(matches!(choose_state(&devices, None, true), Choice::Wait(_)));
    }

    #[test]
    fn an_interrupted_format_is_done_again_and_a_foreign_one_is_not() {
        let half =
            [disk("vda", Content::Other("a GPT")), part("vda1", "vda", HALF_MADE, Content::Other("x"))];
        let format = Choice::Format { partition: "vda1".into(), disk: "vda".into() };
        assert_eq!(choose_state(&half, None, true), format);
        let foreign = [
            disk("vda", Content::Other("a GPT")),
            part("vda1", "vda", STATE_PARTITION, Content::Other("a LUKS volume")),
        ];
        assert!(matches!(choose_state(&foreign, None, true), Choice::Wait(why) if why.contains("LUKS")));
    }
}
