"""Limits that a child process puts on itself before it looks at bytes from a network.

Memory, processor time, files and size of files by setrlimit; on Linux (x86-64, AArch64) a seccomp filter
takes away sockets, other programs and tracing. Where the filter cannot be had the limits stand alone.
"""

import ctypes
import platform
import resource
import struct
import sys

__all__ = ["confine", "more_cpu", "no_network"]

OPEN_FILES = 64
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
KILL = 0x80000000
EACCES = 13
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ARCHITECTURES = {
    # socket, connect, accept, sendto, bind, listen, socketpair, execve, execveat, ptrace, process_vm_writev
    "x86_64": (0xC000003E, (41, 42, 43, 44, 49, 50, 53, 59, 322, 101, 311, 425)),
    "aarch64": (0xC00000B7, (198, 203, 202, 206, 200, 201, 199, 221, 281, 117, 271, 425)),
}
"""Audit architecture, and the numbers of the calls that are refused (the last is io_uring_setup)."""


def confine(memory: int, writes: bool) -> bool:
    """Limit this process to ``memory`` more bytes of address space; whether sockets are refused too.

    ``writes``: files may be written (for who stores what was found sound).
    """
    limit = _address_space() + memory
    _lower(resource.RLIMIT_AS, limit)
    _lower(resource.RLIMIT_CORE, 0)
    if not writes:
        _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
        _lower(resource.RLIMIT_FSIZE, 0)
    return no_network()


def more_cpu(seconds: int) -> None:
    """Let this process run for so many seconds of processor time from now on; then it is killed."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def no_network() -> bool:
    """Refuse sockets, other programs and tracing from now on; whether that could be done."""
    known = ARCHITECTURES.get(platform.machine())
    if known is None or not sys.platform.startswith("linux"):
        return False
    architecture, calls = known
    program = _program(architecture, calls)
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count, padding, a pointer.
    header = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return int(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)) == 0


def _program(architecture: int, calls: tuple[int, ...]) -> bytes:
    """A classic BPF program on ``struct seccomp_data`` (number at 0, architecture at 4)."""
    steps = [
        (LOAD_WORD, 0, 0, 4),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD_WORD, 0, 0, 0),
        *((JUMP_IF_EQUAL, len(calls) - i, 0, number) for i, number in enumerate(calls)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERRNO | EACCES),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _address_space() -> int:
    """Bytes of address space in use; libraries alone map hundreds of megabytes."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - no file of ours
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    limit = limit if hard < 0 else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))
