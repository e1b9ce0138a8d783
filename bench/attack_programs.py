"""What the attacks of ``bench.attacks`` run inside: one small Python program each, named ``kind.name``.

``W`` is what the attacker is told of the outside; ``S(name, ...)`` is a system call by name; ``T(work, ...)`` tries something and prints
what came of it; ``hold()`` keeps what was got open until the judge has looked.
"""

from __future__ import annotations

PRELUDE = """
import ctypes, glob, json, os, signal, socket, struct, sys, time
W = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
NR = dict(zip(
    ("mount unshare clone setns bpf add_key keyctl userfaultfd perf_event_open personality memfd_create chroot ptrace process_vm_writev "
     "open_by_handle_at name_to_handle_at pivot_root mknodat setuid kcmp swapon reboot syslog prctl memfd_secret").split(),
    (165, 272, 56, 308, 321, 248, 250, 323, 298, 135, 319, 161, 101, 311, 304, 303, 155, 259, 105, 312, 167, 169, 103, 157, 447) if X86 else
    (40, 97, 220, 268, 280, 217, 219, 282, 241, 92, 279, 51, 117, 271, 265, 264, 41, 33, 146, 272, 224, 142, 116, 167, 447)))
NR |= {"io_uring_setup": 425, "clone3": 435, "fsopen": 430, "open_tree": 428, "mount_setattr": 442, "pidfd_open": 434, "statmount": 457}
def S(name, *given):
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in given]
    done = libc.syscall(ctypes.c_long(NR.get(name, name) if isinstance(name, str) else name), *words)
    print(name, done, ctypes.get_errno())
    return done
def T(work, *given):
    try:
        print(work(*given))
    except BaseException as error:
        print(type(error).__name__, error)
def hold():
    print("ready", flush=True)
    sys.stdin.read()
def read(path):
    with open(path, "rb") as file: return file.read(100000).decode("latin-1")
def write(path, text="x"):
    with open(path, "a") as file: file.write(text)
def call(family, address, kind=socket.SOCK_STREAM):
    one = socket.socket(family, kind)
    one.settimeout(1)
    return one.connect(address) if kind == socket.SOCK_STREAM else one.sendto(b"x", address)
"""

_READ = {
    "read.bait": "T(read, W['file'])",
    "read.home": "for name in ('', '/.ssh/id_rsa', '/.ssh/id_ed25519', '/.bashrc', '/.aws/credentials', '/.netrc'):\n T(read, W['home'] + name)\nT(os.listdir, W['home'])",
    "read.users_and_keys": "for name in ('/etc/shadow', '/etc/passwd', '/etc/ssh/ssh_host_ed25519_key', '/etc/sudoers'): T(read, name)",
    "read.environment_of_others": "for place in glob.glob('/proc/[0-9]*/environ') + ['/proc/self/environ']: T(read, place)",
    "read.root_of_others": "for kind in ('root', 'cwd'):\n for pid in os.listdir('/proc'):\n  if pid.isdigit() or pid == 'self': T(read, f'/proc/{pid}/{kind}' + W['file'])",
    "read.parents": "T(read, '../' * 20 + W['file'][1:])\nos.chdir('/')\nT(os.chdir, '..')\nT(read, W['file'][1:])",
    "read.memory_of_others": "for pid in os.listdir('/proc'):\n if pid.isdigit() and int(pid) != os.getpid():\n  T(open, f'/proc/{pid}/mem', 'rb')\nT(read, f\"/proc/{W['victim']}/maps\")",
    "read.devices": "held = []\nfor name in ('/dev/mem', '/dev/kmsg', '/proc/kcore', '/proc/kmsg', '/dev/vda', '/dev/sda', '/dev/nvme0n1', '/dev/loop0'):\n try: held.append(open(name, 'rb'))\n except OSError as e: print(e)\nhold()",
    "read.inherited_files": "for fd in range(3, 64):\n try: print(os.readlink(f'/proc/self/fd/{fd}'), os.read(fd, 10))\n except OSError: pass\nhold()",
    "read.link_in_workspace": "os.symlink(W['file'], 'link')\nos.mkdir('deep')",
    "read.folder_link_in_workspace": "os.symlink(os.path.dirname(W['file']), 'folder')",
    "read.by_handle": "buf = ctypes.create_string_buffer(struct.pack('IiQ', 8, 1, 2) + bytes(120))\nroot = os.open('/usr', os.O_RDONLY)\nfd = S('open_by_handle_at', root, buf, 0)\nif fd >= 0:\n for path in (W['file'][1:], 'etc/shadow'): T(lambda: os.read(os.open(path, os.O_RDONLY, dir_fd=fd), 1000))",
}  # fmt: skip
_WRITE = {
    "write.bait": "T(write, W['file'])\nT(os.truncate, W['file'], 0)\nT(os.unlink, W['file'])",
    "write.folder": "T(write, W['folder'] + '/made')\nT(os.mkdir, W['folder'] + '/made2')",
    "write.through_link": "os.symlink(W['folder'], 'out')\nT(write, 'out/made')\nos.symlink(W['file'], 'in')\nT(write, 'in')",
    "write.link_in_workspace": "os.symlink(W['file'], 'link')\nT(os.mkfifo, 'pipe')",
    "write.folder_link_in_workspace": "os.symlink(W['folder'], 'folder')",
    "write.core_pattern": "for name in ('kernel/core_pattern', 'kernel/modprobe', 'vm/overcommit_memory', 'kernel/hostname', 'fs/suid_dumpable'):\n T(write, '/proc/sys/' + name, '|/bin/sh')\nT(write, '/proc/sysrq-trigger', 'h')",
    "write.system": "for name in ('/usr/bin/made', '/etc/made', '/usr/lib/made', '/python/made', '/bin/made', '/lib/made'): T(write, name)\nT(os.chmod, '/usr/bin', 0o777)\nT(os.utime, '/etc')",
    "write.python": "for place in ('/python', '/usr'):\n for path in glob.glob(place + '/lib/python3*/os.py'): T(write, path)\n T(os.rename, place + '/bin', place + '/bin2')",
    "write.cgroup": "for place in ('/sys/fs/cgroup', '/sys/fs/cgroup/memory', '/sys/fs/cgroup/unified'):\n T(os.mkdir, place + '/' + W['word'])\n T(write, place + '/cgroup.procs', '0')\n T(write, place + '/release_agent', '/bin/sh')",
    "write.setuid_file": "write('plain')\nT(os.chmod, 'plain', 0o4755)\nT(os.chmod, 'plain', 0o2755)\nT(os.open, 'made', os.O_CREAT | os.O_WRONLY, 0o6755)\nfd = os.open('third', os.O_CREAT | os.O_WRONLY, 0o755)\nT(os.fchmod, fd, 0o4755)",
    "write.proc_of_others": "for pid in os.listdir('/proc'):\n if pid.isdigit():\n  T(write, f'/proc/{pid}/oom_score_adj', '-1000')\n  T(write, f'/proc/{pid}/uid_map', '0 0 1')\nhold()",
}  # fmt: skip
_NETWORK = {
    "network.tcp": "T(call, socket.AF_INET, ('127.0.0.1', W['tcp']))",
    "network.tcp6": "T(call, socket.AF_INET6, ('::1', W.get('tcp6', W['tcp'])))",
    "network.any_address": "T(call, socket.AF_INET, ('0.0.0.0', W['tcp']))\nT(call, socket.AF_INET, ('localhost', W['tcp']))",
    "network.udp": "T(call, socket.AF_INET, ('127.0.0.1', W['udp']), socket.SOCK_DGRAM)",
    "network.dns": "T(socket.getaddrinfo, 'example.org', 80)\nask = bytes.fromhex('abcd01000001000000000000') + b'\\7example\\3org\\0\\0\\1\\0\\1'\nT(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(ask, ('127.0.0.1', W['udp'])))",
    "network.abstract": "T(call, socket.AF_UNIX, '\\0' + W['abstract'])",
    "network.path": "T(call, socket.AF_UNIX, W['path'])\nos.symlink(W['path'], 'door')\nT(call, socket.AF_UNIX, 'door')",
    "network.interface_up": "import fcntl\ntry:\n one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n fcntl.ioctl(one, 0x8914, struct.pack('16sH14s', b'lo', 1, b''))\nexcept OSError as e: print(e)\nT(call, socket.AF_INET, ('127.0.0.1', W['tcp']))\nhold()",
    "network.netlink": "held = []\nfor kind in (0, 9, 15, 16):\n try: held.append(socket.socket(16, socket.SOCK_RAW, kind))\n except OSError as e: print(e)\nhold()",
    "network.other_families": "held = []\nfor family in (2, 10, 17, 38, 40, 21, 29, 31, 44):\n for kind in (1, 2, 3, 5):\n  try: held.append(socket.socket(family, kind))\n  except OSError as e: print(e)\nhold()",
    "network.high_bits": "fd = S(41 if X86 else 198, (1 << 32) | 2, 1, 0)\nfd2 = S(53 if X86 else 199, (1 << 32) | 2, 1, 0, ctypes.create_string_buffer(8))\nhold()",
}  # fmt: skip
_PROCESS = {
    "process.kill_victim": "T(os.kill, W['victim'], 9)\nT(os.kill, W['supervisor'], 9)\nT(os.killpg, W['victim'], 9)",
    "process.kill_all": "T(signal.signal, signal.SIGTERM, signal.SIG_IGN)\nT(os.kill, -1, signal.SIGTERM)\nT(os.kill, 1, 9)\nT(os.kill, 0, signal.SIGTERM)",
    "process.kill_every_number": "for pid in [*range(2, 3000), *range(W['victim'] - 50, W['victim'] + 50)]:\n if pid != os.getpid():\n  try: os.kill(pid, 9)\n  except OSError: pass",
    "process.pidfd": "fd = S('pidfd_open', W['victim'], 0)\nif fd >= 0: T(signal.pidfd_send_signal, fd, 9)",
    "process.trace_victim": "S('ptrace', 16, W['victim'], 0, 0)\nS('ptrace', 0x4206, W['victim'], 0, 0)\ntime.sleep(0.1)",
    "process.write_victim": "buf = ctypes.create_string_buffer(16)\niov = struct.pack('PN', ctypes.addressof(buf), 16)\nS('process_vm_writev', W['victim'], iov, 1, iov, 1, 0)\nT(open, f\"/proc/{W['victim']}/mem\", 'wb')",
    "process.survive": "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  os.closerange(0, 64)\n  time.sleep(60)\n os._exit(0)",
    "process.survive_deaf": "for number in range(1, 65):\n try: signal.signal(number, signal.SIG_IGN)\n except (OSError, ValueError): pass\nfor _ in range(4):\n if os.fork() == 0:\n  os.setsid()\n  os.closerange(0, 64)\n  time.sleep(60)",
    "process.stopped": "if os.fork() == 0:\n os.setsid()\n os.kill(os.getpid(), signal.SIGSTOP)\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)",
    "process.fork_bomb": "while True:\n try: os.fork()\n except OSError: pass",
    "process.priority": "T(os.nice, -10)\nT(os.setpriority, os.PRIO_PROCESS, 0, -20)\nT(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(10))\nhold()",
    "process.bounds": "import resource\nfor kind in range(16):\n T(resource.setrlimit, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\nhold()",
    "process.become_root": "T(os.setuid, 0)\nT(os.setgid, 0)\nT(os.setgroups, [0])\nT(os.system, 'su -c id; sudo -n id; mount /dev/null /mnt 2>&1; newgrp root </dev/null')\nhold()",
    "process.unreadable": "S('prctl', 4, 0, 0, 0, 0)\nimport shutil\nshutil.copy('/usr/bin/sleep', 'hidden')\nos.chmod('hidden', 0o111)\nos.execv('hidden', ['hidden', '60'])",
    "process.grandchild_of_nobody": "if os.fork() == 0:\n if os.fork() == 0:\n  os.setsid()\n  hold()\n  os._exit(0)\n os._exit(0)\nos.wait()\ntime.sleep(0.3)",
}  # fmt: skip
_SYSCALL = {
    "syscall.mount": "S('mount', b'none', b'/tmp', b'tmpfs', 0, None)\nS('mount', None, b'/', None, 0x1020, None)\nS('mount', b'/', b'/tmp', None, 0x1000, None)\nhold()",
    "syscall.new_mount_api": "fd = S('fsopen', b'tmpfs', 0)\nS('open_tree', -100, b'/', 1)\nS('mount_setattr', -100, b'/', 0, struct.pack('QQQQ', 0, 1, 0, 0), 32)\nhold()",
    "syscall.unshare": "for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x10020000, 0x80): S('unshare', flag)\nhold()",
    "syscall.clone_new": "for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x10000000 | (1 << 40)):\n pid = S('clone', flag | 17, 0, 0, 0, 0)\n if pid == 0:\n  time.sleep(3)\n  os._exit(0)\nhold()",
    "syscall.clone3": "pid = S('clone3', struct.pack('QQQQQQQQ', 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64)\nif pid == 0:\n time.sleep(3)\n os._exit(0)\nhold()",
    "syscall.setns": "for name in ('user', 'mnt', 'net', 'pid'):\n try: S('setns', os.open(f'/proc/1/ns/{name}', os.O_RDONLY), 0)\n except OSError as e: print(e)\nhold()",
    "syscall.chroot": "S('chroot', b'/tmp')\nS('pivot_root', b'/tmp', b'/tmp')\nhold()",
    "syscall.bpf": "S('bpf', 0, struct.pack('IIIII', 1, 4, 4, 1, 0) + bytes(100), 120)\nS('bpf', 5, struct.pack('II', 1, 1) + bytes(112), 120)\nhold()",
    "syscall.keys": "S('add_key', b'user', W['word'].encode(), b'x', 1, -3)\nS('keyctl', 1, b'session', 0, 0, 0)\nprint(open('/proc/keys').read() if os.path.exists('/proc/keys') else '')",
    "syscall.io_uring": "buf = ctypes.create_string_buffer(200)\nS('io_uring_setup', 4, buf)\nhold()",
    "syscall.userfaultfd": "S('userfaultfd', 0)\nS('userfaultfd', 1)\nhold()",
    "syscall.perf": "S('perf_event_open', struct.pack('IIQQQQ', 1, 112, 0, 0, 0, 1) + bytes(80), 0, -1, -1, 0)\nhold()",
    "syscall.personality": "S('personality', 0x0040000)\nS('personality', 0x0400000)\nhold()",
    "syscall.memfd": "S('memfd_create', b'x', 0)\nS('memfd_secret', 0)\nhold()",
    "syscall.mknod": "for mode in (0o20666, 0o60666, 0o10666): S('mknodat', -100, f'node{mode}'.encode(), mode, os.makedev(1, 1))\nT(os.mkfifo, 'pipe')",
    "syscall.trace_child": "pid = os.fork()\nif pid == 0:\n S('ptrace', 0, 0, 0, 0)\n time.sleep(3)\n os._exit(0)\ntime.sleep(0.1)\nS('ptrace', 0x4206, pid, 0, 0)\nhold()",
    "syscall.terminal": "import fcntl, pty\nheld = []\nfor name in ['/dev/tty', '/dev/console', '/dev/tty0', '/dev/tty1', *glob.glob('/dev/pts/*')]:\n try: held.append(os.open(name, os.O_RDWR | os.O_NOCTTY))\n except OSError as e: print(e)\nfor fd in [0, 1, 2, *held]:\n for request in (0x5412, 0x541C, 0x5412 | (1 << 32)): S(16 if X86 else 29, fd, request, b'x')\nhold()",
    "syscall.shared_memory": "fd = S(29 if X86 else 194, 0, 64 << 20, 0o1600)\nprint(open('/proc/sysvipc/shm').read())",
    "syscall.too_new": "for number in range(451, 480): S(number, 0, 0, 0, 0, 0, 0)\nhold()",
    "syscall.compat": "import mmap  # int80\ncode = mmap.mmap(-1, 4096, prot=7)\ncode.write(bytes.fromhex('b814000000cd80c3'))\nrun = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))\nprint(run())",
    "syscall.x32": "# int80\nfor number in (39, 165, 272, 101): S(0x40000000 | number, 0, 0, 0, 0, 0)\nS(0x40000000 | 272, 0x10000000)\nhold()",
    "syscall.clock_and_machine": "T(time.clock_settime, time.CLOCK_REALTIME, 0)\nT(socket.sethostname, 'taken')\nS('swapon', b'/workspace/x', 0)\nS('syslog', 3, ctypes.create_string_buffer(1000), 1000)\nS('kcmp', 1, os.getpid(), 0, 0, 0)\nhold()",
}  # fmt: skip
_RESOURCE = {
    "resource.memory": "held = []\nwhile True:\n held.append(bytearray(b'x' * (4 << 20)))\n time.sleep(0.01)",
    "resource.memory_of_many": "for _ in range(3): os.fork()\nheld = bytearray(b'x' * (30 << 20))\ntime.sleep(60)",
    "resource.memory_of_files": "for place in ('/dev/shm', '/tmp'):\n for i in range(100):\n  try:\n   with open(f'{place}/{i}', 'wb') as file:\n    for _ in range(10): file.write(b'x' * (1 << 20))\n  except OSError as e: print(e)\nprint(os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize)",
    "resource.disk": "for i in range(100):\n write(f'file{i}', 'x' * 1000000)\n time.sleep(0.01)\ntime.sleep(60)",
    "resource.disk_unlinked": "held = []\nfor i in range(40):\n held.append(open('file', 'wb'))\n held[-1].write(b'x' * 1000000)\n held[-1].flush()\n os.unlink('file')\n time.sleep(0.01)\ntime.sleep(60)",
    "resource.inodes": "i = 0\nwhile True:\n i += 1\n open(f'file{i}', 'w').close()",
    "resource.deep": "for i in range(2000):\n os.mkdir('d')\n os.chdir('d')\ntime.sleep(60)",
    "resource.hidden_folder": "os.mkdir('hidden')\nos.chdir('hidden')\nfor i in range(7): write(f'file{i}', 'x' * 1000000)\nos.chmod('.', 0)\ntime.sleep(60)",
    "resource.one_file": "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nT(os.truncate, 'file', 1) if os.path.exists('file') else write('file')\nwith open('file', 'wb') as file:\n try:\n  while True: file.write(b'x' * 65536)\n except OSError as e: print(e)",
    "resource.output": "while True: os.write(1, b'x' * 65536)",
    "resource.errors": "while True: os.write(2, b'x' * 65536)",
    "resource.cpu": "for _ in range(3): os.fork()\nwhile True: pass",
    "resource.sleep": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)",
}  # fmt: skip
PROGRAMS = _READ | _WRITE | _NETWORK | _PROCESS | _SYSCALL | _RESOURCE
