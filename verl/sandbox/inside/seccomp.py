"""A filter of system calls for graded programs (classic BPF, seccomp mode 2).

Namespaces and limits do the shutting in. The filter takes away what could loosen them from inside (new namespaces,
mounts, tracing, other CPUs) and memory that no limit counts (memfd, System V), and with them much of the kernel's
surface. What it refuses looks like a lack of permission or of the feature, so that libraries fall back.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; arguments are little-endian
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*
_X32 = 0x40000000
_SOCKET_FAMILIES = (1, 2, 10)  # unix, inet, inet6; vsock, packet, netlink and the rest are not confined by namespaces

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of `_REFUSED`, and AUDIT_ARCH_*."""

# name: (x86_64, aarch64)
_REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "syslog": (103, 116),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_CLONE, _CLONE3, _SOCKET, _PRLIMIT = (56, 220), (435, 435), (41, 198), (302, 261)


def _refuse(number: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | number)


def _rules(column: int, architecture: int) -> list[tuple[int, int, int, int]]:
    """(code, instructions to skip if true, if false, value): rule after rule, the first that decides counts."""
    allow = (_RETURN, 0, 0, _ALLOW)
    rules = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        _refuse(errno.ENOSYS),
        # Its flags lie in memory, where a filter cannot read them; without it, C libraries use clone.
        (_EQUAL, 0, 1, _CLONE3[column]),
        _refuse(errno.ENOSYS),
    ]
    for numbers in _REFUSED.values():
        rules += [(_EQUAL, 0, 1, numbers[column]), _refuse(errno.EPERM)]
    rules += [(_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, _NEW_NAMESPACES)]
    rules += [_refuse(errno.EPERM), allow]
    count = len(_SOCKET_FAMILIES)
    rules += [(_EQUAL, 0, count + 3, _SOCKET[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    rules += [(_EQUAL, count - index, 0, family) for index, family in enumerate(_SOCKET_FAMILIES)]
    rules += [_refuse(errno.EAFNOSUPPORT), allow]
    # One's own limits may be lowered, those of another process not.
    rules += [(_EQUAL, 0, 3, _PRLIMIT[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, 0)]
    return [*rules, _refuse(errno.EPERM), allow]


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.c_char_p))


class Filter:
    """The filter, ready to be put on.

    Raises OSError where there is no table for the processor.
    """

    def __init__(self) -> None:
        machine = platform.machine()
        if machine not in _ARCHITECTURES:
            raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
        rules = _rules(*_ARCHITECTURES[machine])
        self._program = _Program(len(rules), b"".join(struct.pack("HBBI", *rule) for rule in rules))
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def install(self) -> None:
        """Put it on this process and all it will start. Needs `no_new_privs`; raises OSError."""
        if self._prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(self._program), 0, 0):
            raise OSError(ctypes.get_errno(), "seccomp filter refused")
