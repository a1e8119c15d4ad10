//! Which kernel modules the image ships, beside what they depend on.

/// Needed to find and mount the root: storage controllers, their buses, and file systems. All of them are in the initramfs.
pub const BOOT: &[&str] = &[
    // virtual machines
    "virtio_blk", "virtio_scsi", "virtio_mmio", "vmw_pvscsi", "hv_storvsc", "hv_vmbus", "xen_blkfront",
    // controllers
    "nvme", "ahci", "ata_piix", "ata_generic", "sata_nv", "sata_sil24", "sata_mv", "megaraid_sas", "mpt3sas", "mpi3mr", "hpsa", "smartpqi",
    "aacraid", "arcmsr", "pm80xx", "isci", "mptsas", "mptspi", "vmd", "mmc_block", "sdhci_pci", "sdhci_acpi",
    // disks and CDs
    "sd_mod", "sr_mod", "cdrom",
    // USB
    "xhci_pci", "ehci_pci", "uhci_hcd", "ohci_pci", "usb_storage", "uas",
    // root
    "erofs", "dm_mod", "dm_verity", "loop", "isofs", "ext4", "crc32c_generic", "crc32c_intel", "sha256_generic", "sha256_ssse3",
    // configuration, and a key press that matters
    "qemu_fw_cfg", "button", "virtio_console",
];

/// The rest of what a node needs; the root image has these and [`BOOT`].
pub const NODE: &[&str] = &[
    // network cards
    "virtio_net", "e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e", "iavf", "ice", "idpf", "tg3", "bnx2", "bnx2x", "bnxt_en",
    "mlx4_core", "mlx4_en", "mlx5_core", "r8169", "8139cp", "8139too", "pcnet32", "be2net", "cxgb4", "enic", "qede", "sfc", "nfp", "ionic",
    "atlantic", "ena", "gve", "mana", "hv_netvsc", "vmxnet3", "xen_netfront", "amd_xgbe", "realtek", "usbnet", "cdc_ether", "cdc_ncm", "r8152",
    // software links
    "bridge", "br_netfilter", "veth", "vxlan", "geneve", "wireguard", "bonding", "8021q", "tun", "tap", "macvlan", "macvtap", "ipvlan", "dummy",
    "ifb", "vrf", "ipip", "ip_gre", "ip6_gre", "ip6_tunnel", "sit", "fou", "fou6", "xfrm_interface", "nlmon", "tcp_bbr", "tcp_diag", "inet_diag",
    "udp_diag", "unix_diag", "af_packet_diag", "netlink_diag", "xfrm_user", "esp4", "esp6", "ah4",
    // packet filter, as kube-proxy and network plugins use it
    "kernel/net/netfilter/", "kernel/net/ipv4/netfilter/", "kernel/net/ipv6/netfilter/", "kernel/net/bridge/netfilter/",
    "sch_fq", "sch_fq_codel", "sch_htb", "sch_tbf", "sch_ingress", "sch_netem", "sch_prio", "cls_bpf", "act_bpf", "cls_u32", "cls_flower", "cls_matchall",
    "act_mirred", "act_gact", "act_police", "cls_fw",
    // file systems
    "overlay", "ext4", "xfs", "btrfs", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "squashfs", "fuse", "nfs", "nfsv3", "nfsv4", "cifs", "ceph",
    "autofs4", "configfs", "virtiofs", "9p", "9pnet_virtio",
    // block layers
    "dm_crypt", "dm_integrity", "dm_thin_pool", "dm_snapshot", "dm_mirror", "dm_multipath", "dm_round_robin", "raid0", "raid1", "raid10", "raid456",
    "nbd", "rbd", "iscsi_tcp", "nvme_tcp", "nvme_fabrics", "aesni_intel", "xts", "algif_skcipher", "algif_hash", "essiv", "target_core_mod",
    // machine
    "evdev", "usbhid", "hid_generic", "efivarfs", "efi_pstore", "rtc_cmos", "i2c_i801", "ipmi_si", "ipmi_devintf", "ipmi_ssif", "ipmi_watchdog",
    "iTCO_wdt", "i6300esb", "softdog", "sp5100_tco", "hpwdt", "wdat_wdt", "virtio_rng", "virtio_balloon", "vsock", "vmw_vsock_virtio_transport",
    "kvm", "kvm_intel", "kvm_amd", "vhost_net", "vhost_vsock", "vfio_pci", "coretemp", "k10temp", "acpi_power_meter", "intel_rapl_common",
    "sg", "ses", "zram", "binfmt_misc", "tpm_tis", "tpm_crb", "hv_utils", "hv_balloon", "ptp_kvm",
    // what x86 machines load early for graphics, so that a console shows on a server's screen
    "bochs", "virtio_gpu", "ast", "mgag200",
];
