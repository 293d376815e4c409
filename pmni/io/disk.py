"""Full disks as clear errors."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pmni.errors import InputError


def readable_size(size: int) -> str:
    """Bytes for people: '1.8 GB'."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if size >= 1000**power:
            return f"{size / 1000**power:.3g} {unit}"
    return f"{size} bytes"


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise InputError unless `folder`'s disk has room for `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: the disk has {readable_size(free)} free, but {what} needs "
            f"{readable_size(needed)}; make room or choose another place"
        )


@contextmanager
def report_full_disk(path: Path) -> Iterator[None]:
    """Turn 'no space left' inside the block into an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{path}: the disk is full; make room and run again") from None
