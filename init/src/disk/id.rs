//! The names that a disk has below /dev/disk/by-id on other systems (udev's 60-persistent-storage.rules). Pintle makes no such links; a
//! selector that names one still finds its disk.

/// What the kernel says of a disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Kernel name, such as `sda`.
    pub name: &'a str,
    pub serial: &'a str,
    pub model: &'a str,
    /// `wwid` in sysfs: `naa.5000…`, `eui.0025…`, `t10.ATA     MODEL   SERIAL`.
    pub wwid: &'a str,
}

/// Its names below /dev/disk/by-id.
pub fn by_id(facts: &Facts<'_>) -> Vec<String> {
    let Facts { name, serial, model, wwid } = *facts;
    let mut ids = Vec::new();
    if name.starts_with("vd") && !serial.is_empty() {
        ids.push(format!("virtio-{}", escape(serial)));
    }
    if name.starts_with("nvme") {
        if !wwid.is_empty() {
            ids.push(format!("nvme-{}", escape(wwid)));
        }
        if !serial.is_empty() && !model.is_empty() {
            let namespace = name.rsplit_once('n').map_or("1", |(_, number)| number);
            let id = format!("nvme-{}_{}", escape(model), escape(serial));
            ids.push(format!("{id}_{namespace}"));
            ids.push(id);
        }
    }
    if name.starts_with("sd") || name.starts_with("sr") {
        if let Some(number) = wwid.strip_prefix("naa.").or_else(|| wwid.strip_prefix("eui.")) {
            let kind = if wwid.starts_with("naa.") { '3' } else { '2' };
            ids.push(format!("wwn-0x{number}"));
            ids.push(format!("scsi-{kind}{number}"));
        }
        if let Some((model, serial)) = ata(wwid) {
            ids.push(format!("ata-{}_{}", escape(model), escape(serial)));
        } else if !serial.is_empty() && !model.is_empty() {
            // libata cuts the model off at 16 characters; such a disk is found by serial or wwn.
            ids.push(format!("ata-{}_{}", escape(model), escape(serial)));
        }
    }
    if name.starts_with("mmcblk") && !serial.is_empty() && !model.is_empty() {
        ids.push(format!("mmc-{}_{}", escape(model), escape(serial)));
    }
    ids
}

/// Model (40 characters) and serial (20) of an ATA disk's T10 identifier.
fn ata(wwid: &str) -> Option<(&str, &str)> {
    let rest = wwid.strip_prefix("t10.ATA")?.get(5..)?;
    let (model, serial) = (rest.get(..40)?.trim(), rest.get(40..)?.trim());
    (!model.is_empty() && !serial.is_empty()).then_some((model, serial))
}

/// As udev's `string_escape=replace`: runs of white space and characters that a path cannot carry become `_`.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim().chars() {
        let good = c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
        if good {
            out.push(c);
        } else if !(c.is_whitespace() && out.ends_with('_')) {
            out.push('_');
        }
    }
    out
}

/// The serial number of a SCSI disk's vital product data page 0x80 (SPC-4 §7.8.15).
pub fn serial_of_page(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let text = String::from_utf8_lossy(page.get(4..4 + length)?).trim().to_owned();
    (!text.is_empty() && !text.contains(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_called_as_udev_calls_them() {
        let ids = |name, serial, model, wwid| by_id(&Facts { name, serial, model, wwid });
        assert_eq!(ids("vda", "state", "", ""), ["virtio-state"]);
        assert_eq!(
            ids("nvme0n1", "S4EW NF0M", "Samsung SSD 970", "eui.0025385b01"),
            ["nvme-eui.0025385b01", "nvme-Samsung_SSD_970_S4EW_NF0M_1", "nvme-Samsung_SSD_970_S4EW_NF0M"]
        );
        assert_eq!(
            ids("sda", "", "", "naa.5000c500a1b2c3d4"),
            ["wwn-0x5000c500a1b2c3d4", "scsi-35000c500a1b2c3d4"]
        );
        let wwid = format!("t10.ATA     {:<40}{:>20}", "QEMU HARDDISK", "QM00001");
        assert_eq!(ids("sda", "QM00001", "QEMU HARDDISK", &wwid), ["ata-QEMU_HARDDISK_QM00001"]);
        assert!(ids("vda", "", "", "").is_empty());
    }

    #[test]
    fn a_serial_is_read_from_its_page_only_as_far_as_it_goes() {
        assert_eq!(serial_of_page(b"\0\x80\0\x06 A12  x"), Some("A12".into()));
        assert_eq!(serial_of_page(b"\0\x80\0\xffA"), None);
        assert_eq!(serial_of_page(b"\0\x80"), None);
    }
}
