"""Downloads that resume where they were interrupted (which pooch does not)."""

import http.client
import logging
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pmni.errors import InputError
from pmni.io.disk import check_space, readable_size, report_full_disk

TIMEOUT_SECONDS = 60.0
"""Time without data after which a connection counts as broken."""
RETRY_SECONDS = (1.0, 4.0, 15.0)
"""Waits before the next attempts while no data arrive."""
BLOCK = 1 << 20
"""Bytes read at a time."""

log = logging.getLogger("pmni.fetch")


class _InterruptedError(Exception):
    """The connection ended early, or the server asks for another try."""


def download(url: str, path: Path, size: int | None) -> None:
    """Fetch `url` to `path`; what is in `path` already is kept and continued (HTTP Range).

    `size` is the size in bytes that the file must have, where it is known. A connection that
    breaks is taken up again, and given up after `RETRY_SECONDS` without progress. Then, and for
    every answer that another try cannot mend, InputError is raised; `path` stays, except when it
    cannot be part of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    waits = list(RETRY_SECONDS)
    while True:
        before = _size_of(path)
        if size is not None and before > size:
            path.unlink()
        elif size is not None and before == size:
            return
        try:
            _resume(url, path, size)
            return
        except (_InterruptedError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            log.warning("%s: %s", url, reason)
        if _size_of(path) > before:
            waits = list(RETRY_SECONDS)
        if not waits:
            got = readable_size(_size_of(path))
            raise InputError(
                f"{url}: cannot be downloaded ({reason}); {got} are kept in {path} and the next "
                f"run goes on from there; `--archive FILE` takes a copy fetched in another way"
            )
        time.sleep(waits.pop(0))


def fetch_text(url: str) -> str:
    """A small text file. Raises InputError when it cannot be fetched."""
    try:
        with urllib.request.urlopen(_request(url, 0), timeout=TIMEOUT_SECONDS) as response:
            text: str = response.read(BLOCK).decode("utf-8", errors="replace")
            return text
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"{url}: cannot be fetched ({getattr(error, 'reason', None) or error})"
        ) from None


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _request(url: str, start: int) -> urllib.request.Request:
    headers = {"User-Agent": "pmni"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return urllib.request.Request(url, headers=headers)


def _resume(url: str, path: Path, size: int | None) -> None:
    """One connection: append to `path`, or write it anew when the server sends all of it."""
    start = _size_of(path)
    try:
        response = urllib.request.urlopen(_request(url, start), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            if _total(error.headers.get("Content-Range", "")) == start:
                return
            path.unlink()
            raise _InterruptedError(
                "the partial file is of another download; starting anew"
            ) from None
        if error.code == http.HTTPStatus.TOO_MANY_REQUESTS or error.code >= 500:
            raise _InterruptedError(f"HTTP {error.code} {error.reason}") from None
        raise InputError(f"{url}: HTTP {error.code} {error.reason}") from None
    except ValueError as error:
        raise InputError(f"{url}: {error}") from None
    with response:
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            content_range = response.headers.get("Content-Range", "")
            if not content_range.startswith(f"bytes {start}-"):
                path.unlink(missing_ok=True)
                raise _InterruptedError(f"the server sent another range: {content_range}")
            total = _total(content_range)
        else:
            start = 0
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
        if size is not None and total is not None and total != size:
            raise InputError(f"{url}: has {total} bytes, but the registry says {size}")
        if total is not None:
            check_space(path.parent, total - start, "the download")
        _append(response, path, start, total)
    if total is not None and _size_of(path) < total:
        raise _InterruptedError(f"broken off at {_size_of(path)} of {total} bytes")


def _append(response: http.client.HTTPResponse, path: Path, start: int, total: int | None) -> None:
    """Write what comes, with a progress bar on a terminal and ten lines in a log."""
    from tqdm import tqdm

    bar: Any = tqdm(
        total=total, initial=start, unit="B", unit_scale=True, desc=path.name, disable=None
    )
    done, reported = start, start
    with report_full_disk(path), path.open("ab" if start else "wb") as file, bar:
        while block := response.read(BLOCK):
            file.write(block)
            done += len(block)
            bar.update(len(block))
            if total and not sys.stderr.isatty() and done - reported >= total / 10:
                reported = done
                log.info("%s: %s of %s", path.name, readable_size(done), readable_size(total))


def _total(content_range: str) -> int | None:
    """The whole size in 'bytes 5-9/10' or 'bytes */10'."""
    match = re.fullmatch(r"bytes .*/(\d+)", content_range)
    return int(match[1]) if match else None
