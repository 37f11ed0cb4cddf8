"""A lock on an output folder while it is written, so that two processes never write into one.

The system holds it (`flock`) and lets go of it when the process ends, however that ends. Within a process it may be
taken again: a run that was broken off and is resumed there is the same owner.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path

from stillroom.errors import ArtifactError

try:
    import fcntl
except ImportError:  # no such thing on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("stillroom")
LOCK_FILE = ".lock"
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class FolderLock:
    """A folder that this process writes into, made by `lock_folder`; freed by `release` or by the last owner."""

    def __init__(self, folder: Path, handle: int) -> None:
        self._path = folder / LOCK_FILE
        # A process that was forked off has the handle too, and must not let go for its parent.
        self.release = weakref.finalize(self, _release, self._path, handle, os.getpid())


_held: weakref.WeakValueDictionary[str, FolderLock] = weakref.WeakValueDictionary()


def lock_folder(folder: Path) -> FolderLock | None:
    """Lock a folder that exists; None, with a warning, where the file system has no locks.

    Raises:
        ArtifactError: another process has locked it.
        OSError: nothing can be written there.
    """
    place = str(folder.resolve())
    held = _held.get(place)
    if held is not None and held.release.alive:
        return held
    if fcntl is None:
        return None
    while True:
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 200).decode("utf-8", "replace").strip()
            os.close(handle)
            if error.errno in TAKEN:
                raise ArtifactError(_taken(folder, owner)) from None
            log.warning("%s cannot be locked (%s): see that no second process writes there", folder, error.strerror)
            (folder / LOCK_FILE).unlink(missing_ok=True)
            return None
        if _is_at(folder / LOCK_FILE, handle):
            break
        os.close(handle)  # its owner was done just then, and has deleted it
    with suppress(OSError):  # for others to read only
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    lock = FolderLock(folder, handle)
    _held[place] = lock
    return lock


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _taken(folder: Path, owner: str) -> str:
    line = f"--out {folder} is being written by {owner or 'another process'}; wait for it, or choose another folder"
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and "WORLD_SIZE" not in os.environ:
        line += f" (srun has started {tasks} processes; several train together under torchrun only)"
    return line


def _release(path: Path, handle: int, process: int) -> None:
    if os.getpid() == process:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # before the lock is free, or it might be another's by then
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
