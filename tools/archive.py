"""The two files that are handed out where nothing can be cloned.

usage: archive.py course [FILE]   what the lessons need, into FILE, or out/picogpt-course.zip: put it next to a notebook
       archive.py doctor [FILE]   the doctor as one program, into FILE, or out/picogpt_doctor.pyz: python picogpt_doctor.pyz

The same tree gives the same bytes.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from picogpt import ROOT, atomic_write, load_shakespeare

TEXT = "data/tinyshakespeare.txt"
PLAY = "data/earnest_act_1.txt"  # for lesson 14
COURSE = ("LICENSE", TEXT, PLAY, "data/*.csv", "data/checkpoints/*", "data/runs/*", "picogpt/**/*", "picogpt_doctor/**/*")
CORE = "picogpt_core.py"
START_DOCTOR = "import runpy\n\nrunpy.run_module('picogpt_doctor', run_name='__main__', alter_sys=True)\n"


def files(*patterns: str) -> dict[str, bytes]:
    """Return the files of the repository that match, by name and in order, without caches and temporary files."""
    found = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    kept = (path for path in found if not any(part.startswith((".", "__pycache__")) for part in path.parts))
    return {path.as_posix(): (ROOT / path).read_bytes() for path in sorted(kept)}


def write(target: Path, contents: dict[str, bytes], first_line: bytes = b"") -> None:
    """Write a zip file, with every date and every permission fixed."""
    with atomic_write(target) as temporary, open(temporary, "wb") as file:
        file.write(first_line)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in contents.items():
                member = zipfile.ZipInfo(name)  # of 1980-01-01, the first day that a zip file knows
                member.compress_type, member.create_system, member.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
                archive.writestr(member, data)


def write_course(target: Path) -> None:
    """Write what a lesson needs: the core, the package, the doctor, the trained models, the stored runs and the text.

    The core comes last: the first cell of a lesson takes a folder that has it for the whole course.
    """
    write(target, files(*COURSE) | files(CORE))


def write_doctor(target: Path) -> None:
    """Write the doctor as one file that Python runs. It needs torch, and nothing else of this repository."""
    contents = files("picogpt_doctor/**/*.py") | {"__main__.py": START_DOCTOR.encode()}
    write(target, contents, first_line=b"#!/usr/bin/env python3\n")
    target.chmod(0o755)


def main(words: list[str]) -> int:
    match words:
        case ["course", *rest] if len(rest) < 2:
            target = Path(*rest) if rest else ROOT / "out" / "picogpt-course.zip"
            try:
                load_shakespeare()  # fetched if it is not there yet
            except OSError as error:
                print(f"without {TEXT}, which a lesson will fetch: {str(error).splitlines()[0]}")
            write_course(target)
        case ["doctor", *rest] if len(rest) < 2:
            target = Path(*rest) if rest else ROOT / "out" / "picogpt_doctor.pyz"
            write_doctor(target)
        case _:
            print(__doc__)
            return 2
    print(f"{target}, {target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
