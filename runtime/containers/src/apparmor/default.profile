# What a container may do unless its pod names another profile: everything that its capabilities and namespaces allow, but for mounting and for the
# writable files of /proc and /sys that belong to the node. default.bin is this file compiled by Debian 12's apparmor_parser:
#   apparmor_parser --skip-kernel-load --skip-cache --ofile default.bin \
#     --policy-features /usr/share/apparmor-features/features --kernel-features /usr/share/apparmor-features/features default.profile
profile pintle-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (send,receive) peer=pintle-default,
  ptrace (trace,read,tracedby,readby) peer=pintle-default,

  # Files of /proc itself, and of folders that are no process's.
  deny /proc/* w,
  deny /proc/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w,
  # The pod's own sysctls are below kernel/shm*.
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  deny mount,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
