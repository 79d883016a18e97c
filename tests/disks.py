"""A real file system, in a file, that becomes read-only in the middle of the work. Needs root.

The kernel does so itself when it finds a disk damaged (ext4, `errors=remount-ro`): every write fails
from then on, also those to files that are open, and what was not yet flushed is lost.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

SIZE = "400M"
NONE = "no disk of its own"
"""How the reason begins why there is none."""


def why_not() -> str:
    """Why no such disk can be made here; empty if it can."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return "mounting a file system needs root"
    missing = [name for name in ("mkfs.ext4", "e2fsck", "mount") if shutil.which(name) is None]
    if missing:
        return f"no {missing[0]} here"
    return "" if Path("/sys/fs/ext4").is_dir() else "no ext4 in this kernel"


def mount(place: Path) -> str:
    """Make an empty disk beside `place`, and mount it there; why that is not permitted, or nothing."""
    image = image_of(place)
    place.mkdir(parents=True)
    subprocess.run(["truncate", "-s", SIZE, str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    if _attach(place):
        return f"{NONE}: mounting a file system is not permitted here"
    if _switch(place).exists():
        return ""
    unmount(place)
    return f"{NONE}: this kernel does not let a disk be declared damaged"


def image_of(place: Path) -> Path:
    """The file that a disk is in."""
    return place.with_name(f"{place.name}.img")


def _attach(place: Path) -> int:
    words = ["mount", "-o", "loop,errors=remount-ro", str(image_of(place)), str(place)]
    return subprocess.run(words, check=False, capture_output=True).returncode


def _switch(place: Path) -> Path:
    """The kernel's file by which it is told of an error of a disk."""
    device = place.stat().st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    return Path("/sys/fs/ext4", name, "trigger_fs_error")


def flush(place: Path) -> None:
    """Let what was written so far be on the disk."""
    subprocess.run(["sync", "--file-system", str(place)], check=True)


def make_read_only(place: Path) -> None:
    """From here on nothing can be written to this disk."""
    handle = os.open(_switch(place), os.O_WRONLY)
    os.write(handle, b"found damaged")
    os.close(handle)


def mend(place: Path) -> None:
    """Check the disk, as an administrator would, and mount it again."""
    unmount(place)
    subprocess.run(["e2fsck", "-p", str(image_of(place))], check=False, capture_output=True)
    assert _attach(place) == 0
    shutil.rmtree(place / "lost+found", ignore_errors=True)


def unmount(place: Path) -> None:
    """Take the disk away; for as long as something of it is open, wait."""
    for _ in range(100):
        if subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"{place} is in use")
