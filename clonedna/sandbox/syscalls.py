"""The system calls that do not exist inside: two seccomp filters, as the kernel reads them.

The first is made by libseccomp from names: everything is allowed but what is listed. The second is seven instructions of our own:
system calls newer than the list was made for do not exist (``ENOSYS``), nor do those of another architecture.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import tempfile
from functools import cache

from clonedna.core.errors import SandboxUnavailable

DENIED = (
    # kernel interfaces with a record of holes
    "bpf", "userfaultfd", "perf_event_open", "io_uring_setup", "io_uring_enter", "io_uring_register", "vmsplice", "kcmp", "lookup_dcookie",
    "fanotify_init", "name_to_handle_at", "open_by_handle_at", "memfd_secret",
    # keys, modules, the machine and its clock
    "keyctl", "add_key", "request_key", "init_module", "finit_module", "delete_module", "create_module", "query_module",
    "get_kernel_syms", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "syslog", "settimeofday", "clock_settime",
    "clock_adjtime", "adjtimex", "stime", "sethostname", "setdomainname", "ioperm", "iopl", "vm86", "vm86old", "modify_ldt", "uselib",
    "ustat", "sysfs", "_sysctl", "vhangup", "nfsservctl", "quotactl", "quotactl_fd",
    # namespaces and mounts, old and new
    "unshare", "setns", "mount", "umount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount",
    "fspick", "mount_setattr",
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "migrate_pages", "move_pages", "set_mempolicy",
    "mbind", "set_mempolicy_home_node", "personality",
    # files that are no files, and memory that no watchdog sees
    "mknod", "mknodat", "memfd_create", "shmget", "shmat", "shmctl", "msgget", "msgsnd", "semget", "mq_open",
)  # fmt: skip
NEWEST = 450
"""The last system call number that was looked at; from 424 on the numbers are those of every architecture."""

_CLONE_NEW = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_MODE_AT = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "mkdir": 1, "mkdirat": 2, "creat": 1}
"""Which argument is a mode that could make a file run as its owner or group."""
_TIOCSTI, _TIOCLINUX, _AF_UNIX, _PR_SET_DUMPABLE, _LOW = 0x5412, 0x541C, 1, 4, 0xFFFFFFFF


@cache
def filters() -> tuple[bytes, bytes]:
    """Both programs, for ``bwrap --add-seccomp-fd``. Raises ``SandboxUnavailable`` without libseccomp, or one that knows too little."""
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxUnavailable(f"no seccomp filter can be made: {error}", "make setup-system") from None
    made = seccomp.SyscallFilter(seccomp.ALLOW)
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    refused, unknown = seccomp.ERRNO(errno.EPERM), seccomp.ERRNO(errno.ENOSYS)
    try:
        for name in DENIED:
            made.add_rule(refused, _number(seccomp, name))
        # Only the low half of these arguments counts for the kernel, so only it is compared: a high bit must not hide a flag.
        for flag in _CLONE_NEW:
            made.add_rule(refused, _number(seccomp, "clone"), seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
        made.add_rule(unknown, _number(seccomp, "clone3"))  # its flags are in memory; libraries then take clone
        for name in ("socket", "socketpair"):
            made.add_rule(refused, _number(seccomp, name), seccomp.Arg(0, seccomp.NE, _AF_UNIX))
        for request in (_TIOCSTI, _TIOCLINUX):
            made.add_rule(refused, _number(seccomp, "ioctl"), seccomp.Arg(1, seccomp.MASKED_EQ, _LOW, request))
        made.add_rule(
            refused, _number(seccomp, "prctl"), seccomp.Arg(0, seccomp.MASKED_EQ, _LOW, _PR_SET_DUMPABLE)
        )  # the watchdog must be able to read a process
        for bit in (stat.S_ISUID, stat.S_ISGID):
            for name, at in _MODE_AT.items():
                made.add_rule(refused, _number(seccomp, name), seccomp.Arg(at, seccomp.MASKED_EQ, bit, bit))
            for name, at in (("open", 1), ("openat", 2)):  # the mode counts only where a file is made
                for flag in (os.O_CREAT, os.O_TMPFILE):
                    made.add_rule(
                        refused, _number(seccomp, name), seccomp.Arg(at, seccomp.MASKED_EQ, flag, flag),
                        seccomp.Arg(at + 1, seccomp.MASKED_EQ, bit, bit),
                    )  # fmt: skip
        made.add_rule(unknown, _number(seccomp, "openat2"))  # its mode is in memory
        with tempfile.TemporaryFile() as file:
            made.export_bpf(file)
            file.seek(0)
            return file.read(), _ceiling(seccomp.system_arch())
    except OSError as error:
        raise SandboxUnavailable(f"libseccomp refused a rule: {error}", "make setup-system") from None


def _number(seccomp: object, name: str) -> int:
    number: int = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)  # type: ignore[attr-defined]
    if number == -1:  # below that: known, and not there on this architecture
        raise SandboxUnavailable(f"this libseccomp does not know {name!r}", "install libseccomp 2.5.4 or newer")
    return number


def _ceiling(arch: int) -> bytes:
    """Classic BPF over ``struct seccomp_data`` (nr at 0, arch at 4): another architecture ends the process, numbers above ``NEWEST``
    are ``ENOSYS``, the rest is allowed.
    """
    load, equal, greater, give = 0x20, 0x15, 0x25, 0x06
    program = (
        (load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, 0x80000000), (load, 0, 0, 0), (greater, 0, 1, NEWEST),
        (give, 0, 0, 0x00050000 | errno.ENOSYS), (give, 0, 0, 0x7FFF0000),
    )  # fmt: skip
    order = "<" if sys.byteorder == "little" else ">"
    return b"".join(struct.pack(f"{order}HBBI", *instruction) for instruction in program)
