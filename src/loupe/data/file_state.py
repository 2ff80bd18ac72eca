"""State of a file in its file system, by which one that has changed is noticed without reading it."""

import os
from typing import NamedTuple


class State(NamedTuple):
    """State of a file in its file system. A file whose content changes gets another state, unless on purpose."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> "State":
        numbers = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
        return cls(*((number + 2**63) % 2**64 - 2**63 for number in numbers))  # inodes may have 64 bits, unsigned

    @property
    def last_change_ns(self) -> int:
        return max(self.mtime_ns, self.ctime_ns)
