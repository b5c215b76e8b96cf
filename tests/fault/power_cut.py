"""Power cuts for real nodes: each node's data directory is a small ext4 file system of its own, which loses its power.

A `Volume` is an image file, mounted through a loop device. `cut` shuts the file system down without writing its journal
(EXT4_IOC_SHUTDOWN with NOLOGFLUSH): what was synced is there after the next mount, which replays the journal; what was only
written is gone, names too, and until then every call gets EIO. The machine's own page cache does not matter: it lies below the
file system. Needs root, loop devices and e2fsprogs; `powerless` says why it cannot be done here.

What it does not do: tear a sector, or let a later write live and an earlier one die, beyond what ext4 does by itself. The crash
images (tests/unit/storage/test_crash_images.py, test_lmdb_crash_images.py) do that. Source: the shared reference on Raft, §6.7.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Barrier

from tests.processes import Cluster

__all__ = ["Volume", "cut_power", "powerless", "volumes"]

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NO_LOG_FLUSH = struct.pack("=I", 2)  # EXT4_GOING_FLAGS_NOLOGFLUSH
#: Sparse: the machine's disk holds only what is used of it.
_IMAGE_BYTES = 1 << 30
#: Nothing gets to the disk because time passes: only what is synced does.
_COMMIT_S = 300
#: A process that was killed lets go of its files a moment later, and a file system of its device.
_BUSY_S, _DETACHED_S = 10.0, 2.0


class Volume:
    """One node's disk: an image, and where it is mounted."""

    def __init__(self, image: Path, place: Path) -> None:
        self._image = image
        self.place = place

    def make(self) -> None:
        """Make the file system and mount it."""
        self.place.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(_IMAGE_BYTES)
        _command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", str(self._image))
        self.mount()

    def mount(self) -> None:
        """Mount it; after a cut this replays the journal."""
        _command("mount", "-t", "ext4", "-o", f"loop,commit={_COMMIT_S}", str(self._image), str(self.place))

    def unmount(self) -> None:
        """Unmount it, as soon as no process uses it any more; the loop device goes with it."""
        end = time.monotonic() + _BUSY_S
        while (fault := _fault_of("umount", str(self.place))) and time.monotonic() < end:
            time.sleep(0.02)
        assert not fault, fault
        end = time.monotonic() + _DETACHED_S
        while self._is_attached():
            if time.monotonic() > end:
                self._move()
                return
            time.sleep(0.02)

    def _is_attached(self) -> bool:
        """Whether a loop device still has the image."""
        found = subprocess.run(["losetup", "-j", str(self._image)], capture_output=True, text=True, timeout=60, check=True)
        return bool(found.stdout)

    def _move(self) -> None:
        """Go on with a copy: a mount namespace made meanwhile holds the old file system, which would be mounted again.

        It is shut down, so it writes nothing more.
        """
        copy = self._image.with_name(f"{self._image.name}.copy")
        _command("cp", "--sparse=always", str(self._image), str(copy))
        self._image = copy

    def discard(self) -> None:
        """Unmount it whatever happened before; never raises."""
        if os.path.ismount(self.place):
            _fault_of("umount", "--lazy", str(self.place))


def _fault_of(*words: str) -> str:
    """Run a command; what it complained of, empty when it went well."""
    ended = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    return f"{' '.join(words)}: {ended.stderr.strip() or ended.returncode}" if ended.returncode else ""


def _command(*words: str) -> None:
    fault = _fault_of(*words)
    assert not fault, fault


def powerless() -> str:
    """Why no power can be cut here; empty when it can."""
    if os.geteuid() != 0:
        return "only root can mount file systems"
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount", "losetup") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    with tempfile.TemporaryDirectory() as directory:
        volume = Volume(Path(directory, "image"), Path(directory, "place"))
        try:
            volume.make()
            _shut_down([volume])
            volume.unmount()
        except (AssertionError, OSError) as error:
            return f"no loop-mounted ext4 that can be shut down: {error}"
        finally:
            volume.discard()
    return ""


@contextmanager
def volumes(directory: Path, names: Iterable[str]) -> Iterator[list[Volume]]:
    """A mounted volume per node, at `directory`/NAME; all are unmounted and detached in the end."""
    with ExitStack() as stack:
        made = []
        for name in names:
            volume = Volume(directory / f"{name}.ext4", directory / name)
            stack.callback(volume.discard)
            volume.make()
            made.append(volume)
        yield made


def _shut_down(cut: Sequence[Volume], stop: Callable[[], None] = lambda: None) -> None:
    """Shut file systems down, all at once, as soon as `stop` has returned."""
    with ExitStack() as stack, ThreadPoolExecutor(len(cut)) as threads:
        descriptors = [os.open(volume.place, os.O_RDONLY | os.O_DIRECTORY) for volume in cut]
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        ready = Barrier(len(cut) + 1)
        shut = [threads.submit(_shut_down_at, ready, descriptor) for descriptor in descriptors]
        stop()
        ready.wait()
        for done in shut:
            done.result()


def _shut_down_at(ready: Barrier, descriptor: int) -> None:
    ready.wait()
    fcntl.ioctl(descriptor, _SHUTDOWN, _NO_LOG_FLUSH)


def cut_power(nodes: Cluster, cut: Sequence[Volume]) -> None:
    """The power of all nodes fails: the processors', and at once, whatever a disk is in the middle of, the disks'.

    In this order, because ext4 is not to be believed while it is shut down: an fdatasync that began before may return success
    although what it wrote is gone (when it lay in an extent that was never written before, since the journal then refuses to
    say otherwise). No process may be left to believe it, as none is after a real cut. Nobody waits in between for the
    processes' end, which would let every sync under way be completed. The volumes are mounted again afterwards; the nodes are
    down.
    """

    def kill() -> None:
        for node in nodes.nodes.values():
            node.signal(signal.SIGKILL)

    _shut_down(cut, kill)
    for node in nodes.nodes.values():
        node.kill()
    for volume in cut:
        volume.unmount()
        volume.mount()
