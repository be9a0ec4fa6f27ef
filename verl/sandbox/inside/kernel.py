"""The system calls which Python 3.11 has no function for. All raise OSError with the name of the call."""

from __future__ import annotations

import ctypes
import os
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
"""Kinds of namespaces (CLONE_*)."""
NOSUID, NODEV, NOEXEC, RDONLY, BIND, RECURSIVE, PRIVATE = 2, 4, 8, 1, 4096, 16384, 1 << 18
"""Flags of a mount (MS_*)."""

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 4, 38, 36
_MNT_DETACH = 2
_SYS_MOUNT_SETATTR = 442  # the same on every architecture; glibc has no function for it before 2.36
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
_THIS_PROCESS = (ctypes.c_uint32 * 2)(0x20080522, 0)  # in version 3 of the interface
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: Any) -> None:
    if getattr(_libc, name)(*args) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(kinds: int) -> None:
    _call("unshare", kinds)


def setns(fd: int, kind: int) -> None:
    _call("setns", fd, kind)


def mount(source: str, target: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def read_only(path: str, recursive: bool = True) -> None:
    """Make a mount (and those below it) read-only, without set-uid programs (Linux 5.12)."""
    attributes = (ctypes.c_uint64 * 4)(RDONLY | NOSUID, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    _call("syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, 32)


def pivot_root(new: str, old: str) -> None:
    _call("pivot_root", new.encode(), old.encode())


def detach(path: str) -> None:
    _call("umount2", path.encode(), _MNT_DETACH)


def set_dumpable(value: bool) -> None:
    """Whether /proc/<pid> of this process belongs to its user."""
    _call("prctl", _PR_SET_DUMPABLE, int(value), 0, 0, 0)


def become_subreaper() -> None:
    """Orphans below this process become its children."""
    _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def renounce_privileges() -> None:
    """Give up every capability, and the means to get one back by running a program."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("capset", _THIS_PROCESS, _NO_CAPABILITIES)


def own_user_namespace(kinds: int, inner_id: int) -> None:
    """Enter a new user namespace, and others of `kinds` that belong to it, with all capabilities over these.

    The caller's user and group are `inner_id` in it; no other user exists there.
    """
    user, group = os.geteuid(), os.getegid()
    set_dumpable(True)  # a change of user has made /proc/self root's
    unshare(NEWUSER | kinds)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inner_id} {user} 1"),
        ("gid_map", f"{inner_id} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
