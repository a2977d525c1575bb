"""A setting of the C library's allocator that deep learning on a processor needs."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next need; whether that could be set.

    By default glibc hands large blocks back to the kernel as soon as they are freed, and every call of a
    compiled program begins with thousands of page faults; without them updates from pixels were a tenth
    faster (docs/atari.md). The price is that memory once used stays with the process until it ends. Call it
    before other threads are started, those of polars among them. Does nothing where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(name, value) for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER))
    )
