"""Files that are never half written, and tables."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the repository
DATA = ROOT / "data"


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Give a temporary name next to `path`; rename it to `path` only if the block ends without an error.

    A crash, a full disk or a Ctrl-C in the middle leaves the old file as it was. Readers see the old or the new file,
    never half of one, also when several processes write at once.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # the bytes must be on the disk before the name points at them
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Raise ValueError now, rather than after an hour of training, if nothing can be written in `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for temporary in folder.glob(".*.tmp"):
            if _is_stale(temporary.name):
                temporary.unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into {folder}: {error.strerror}. Choose another folder") from None


def _is_stale(name: str) -> bool:
    """Return whether a file is `atomic_write`'s, for a checkpoint or history, of a process that was killed while it wrote."""
    ours = re.fullmatch(r"\.(?:best|last)\.safetensors\.(\d+)-\d+\.tmp|\.history\.(?:csv|json)\.(\d+)-\d+\.tmp", name)
    if not ours or os.name != "posix":  # elsewhere signal 0 is a real signal
        return False
    try:
        os.kill(int(ours[1] or ours[2]), 0)  # asks only whether the process exists
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def save_rows(path: Path | str, rows: list[dict]) -> None:
    """Write rows with the same keys as a CSV file."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def load_rows(path: Path | str) -> list[dict]:
    """Read a CSV file as rows; numbers become numbers, an empty cell becomes None."""

    def value(cell: str):
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(cell)
        return cell or None

    with open(path, newline="") as file:
        return [{key: value(cell) for key, cell in row.items()} for row in csv.DictReader(file)]
