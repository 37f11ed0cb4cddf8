"""Fetch one file with a known SHA-256: with progress, resumed, verified, and safe when several processes ask at once.

Bytes arrive in `NAME.part` beside the target, under a lock; the file is renamed into its place when its hash is right.
So what stands under its own name is whole, a killed download goes on where it stopped, and a second process waits for
the first and uses what it fetched.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from stillroom.errors import ArtifactError, ConfigError
from stillroom.progress import progress

log = logging.getLogger("stillroom")

CHUNK = 2**20
TIMEOUT_SECONDS = 30.0
# After so many connections in a row that brought nothing new, a download is given up.
FRUITLESS_ATTEMPTS = 5
RETRY_SECONDS = 1.0
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file to fetch: `name` for messages, `max_bytes` no server may exceed.

    `notice` is a line, e.g. a licence, that is logged when its first bytes arrive, and not again when it is resumed.
    """

    name: str
    url: str
    sha256: str
    max_bytes: int
    notice: str = ""

    @property
    def file_name(self) -> str:
        """Last part of the URL's path."""
        return PurePosixPath(urlsplit(self.url).path).name


class _BrokenError(Exception):
    """A connection that did not bring the rest of the file.

    `final`: trying again is no use. `connected`: there was a server that answered.
    """

    def __init__(self, reason: str, *, final: bool = False, connected: bool = True) -> None:
        self.reason, self.final, self.connected = reason, final, connected
        super().__init__(reason)


def model_folder() -> Path:
    """Return where downloaded models are kept: below the environment's STILLROOM_CACHE, else ~/.cache/stillroom."""
    cache = os.environ.get("STILLROOM_CACHE")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache" / "stillroom") / "models"


def fetch(remote: RemoteFile, folder: Path) -> Path:
    """Return the file in `folder`, verified by its hash; download it first if it is not there.

    Args:
        remote: what to fetch.
        folder: where it is kept; a file of that name put there by hand is used like a downloaded one.

    Raises:
        ConfigError: it cannot be downloaded; the message says which URL to fetch and where to put the file.
        ArtifactError: the file has another hash, or cannot be written.
    """
    target = folder / remote.file_name
    if not target.exists():
        with _locked(remote, target):
            if not target.exists():
                _download(remote, target)
                return target
    verify(remote, target)
    return target


def verify(remote: RemoteFile, path: Path) -> None:
    """Raise an `ArtifactError` unless the file at `path` has the hash of `remote`."""
    found = _sha256(path)
    if found != remote.sha256:
        raise ArtifactError(
            f"{path} is not {remote.name}: its SHA-256 is {found}, not {remote.sha256}; "
            f"delete it and fetch {remote.url}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(remote: RemoteFile, target: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(target.name + ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("%s: waiting for another process that downloads it", remote.name)
            lock.acquire()
    except OSError as error:
        reason = f"{target.parent} cannot be written: {error}"
        raise ConfigError(f"{reason}; set STILLROOM_CACHE to a folder that can") from None
    try:
        yield
    finally:
        lock.release()


def _download(remote: RemoteFile, target: Path) -> None:
    """Bring a verified file to `target`. The lock is held, so nobody else touches the partial file."""
    part = target.with_name(target.name + ".part")
    resumed = _size(part) > 0
    _receive_all(remote, part, target)
    if resumed and _sha256(part) != remote.sha256:
        log.warning("%s: what an earlier download left was damaged; once more from the start", remote.name)
        part.write_bytes(b"")
        _receive_all(remote, part, target)
    found = _sha256(part)
    if found != remote.sha256:
        part.unlink()
        raise ArtifactError(
            f"{remote.url} is not {remote.name}: its SHA-256 is {found}, not {remote.sha256}; nothing was kept"
        )
    os.replace(part, target)
    log.info("%s: %s", remote.name, target)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive_all(remote: RemoteFile, part: Path, target: Path) -> None:
    """Connect again and again until the whole file is in `part`."""
    most = start = _size(part)
    fruitless = 0
    while True:
        try:
            return _receive(remote, part)
        except _BrokenError as error:
            here = _size(part)
            fruitless = 0 if here > most else fruitless + 1
            most = max(most, here)
            no_network = not error.connected and most == start  # not worth waiting for
            if error.final or no_network or fruitless >= FRUITLESS_ATTEMPTS:
                kept = f"{here:,} bytes are kept and the same command goes on from there, or " if here else ""
                by_hand = f"fetch {remote.url} yourself and put it at {target}"
                raise ConfigError(f"{remote.name} cannot be downloaded ({error.reason}); {kept}{by_hand}") from None
            log.info("%s: %s; going on at %s bytes", remote.name, error.reason, f"{here:,}")
        time.sleep(RETRY_SECONDS * 2**fruitless)


def _receive(remote: RemoteFile, part: Path) -> None:
    """Append to `part` what one connection brings; `_BrokenError` unless that completes it."""
    have = _size(part)
    headers = {"User-Agent": "stillroom", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing behind the last byte we have: complete, or longer than the file
            if _total(error.headers) == have:
                return
            part.write_bytes(b"")
            raise _BrokenError("the partial file was not a part of it") from None
        raise _BrokenError(f"HTTP {error.code}", final=error.code not in RETRIED_STATUS) from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_reason(error), connected=False) from None
    with response:
        if response.status != 206 or _first_byte(response.headers) != have:
            if response.status == 206:
                part.write_bytes(b"")
                raise _BrokenError("the server sent another range than was asked for")
            have = 0  # the server ignores ranges: from the start
        _store(response, remote, part, have)


def _store(response: Any, remote: RemoteFile, part: Path, have: int) -> None:
    """Write a response's bytes behind the first `have` bytes of `part`."""
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else None
    if total is not None and total > remote.max_bytes:
        raise _BrokenError(f"the server offers {total:,} bytes, at most {remote.max_bytes:,} can be right", final=True)
    if remote.notice and not part.exists():
        log.warning("%s", remote.notice)
    description = f"download {remote.name}" + (f" from {have // CHUNK:,} MB on" if have else "")
    remaining = -(-(total - have) // CHUNK) if total is not None else None
    received = have
    try:
        with part.open("ab" if have else "wb") as file, progress(description, remaining, "MB") as shown:
            while chunk := _next_chunk(response):
                received += len(chunk)
                if received > remote.max_bytes:
                    raise _BrokenError(f"the server sends more than {remote.max_bytes:,} bytes", final=True)
                file.write(chunk)
                shown.advance((received - have) // CHUNK - shown.done)
    except OSError as error:
        raise ArtifactError(f"{part} cannot be written: {error}") from None
    if total is not None and received < total:
        raise _BrokenError("the connection was cut")


def _next_chunk(response: Any) -> bytes:
    try:
        return response.read(CHUNK)
    except http.client.IncompleteRead as error:
        return error.partial  # then the end, which is too early
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_reason(error)) from None


def _first_byte(headers: Any) -> int | None:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _total(headers: Any) -> int | None:
    found = re.search(r"/(\d+)$", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:200] or type(error).__name__
