"""What the benchmarks share: every contender runs in a process of its own.

The memory allocator's settings hold for a whole process, and so does what was imported, compiled or warmed up before: in one
process, a contender would be measured with what the others left behind. A benchmark lets its contenders take turns, so that
a machine that slows down slows down all of them.

    CONTENDERS = {"ours": lambda seed: 1.5}

    def main():
        print(measure(__file__, "ours", 1337))

    if __name__ == "__main__":
        run(CONTENDERS, main)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any


def measure(script: str, contender: str, *arguments: Any) -> Any:
    """Run one contender of `script` in a new process and return its result. CalledProcessError if it fails."""
    line = [sys.executable, script, contender, *map(json.dumps, arguments)]
    return json.loads(subprocess.check_output(line, text=True).splitlines()[-1])  # libraries may print before it


def run(contenders: Mapping[str, Callable[..., Any]], main: Callable[[], None]) -> None:
    """Run `main`; or, in a process that `measure` started, the one contender that the command line names."""
    if not sys.argv[1:]:
        main()
        return
    name, *arguments = sys.argv[1:]
    if name not in contenders:
        sys.exit(f"error: no contender is called {name!r}: {', '.join(contenders)}")
    print(json.dumps(contenders[name](*map(json.loads, arguments))))
