"""python -m picogpt_doctor …, and python path/to/picogpt_doctor … for a folder that was copied."""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    if not __package__:  # started as a folder: import it as the package that it is, and let its files hide no module
        sys.path[0] = str(folder.parent)
    sys.exit(importlib.import_module(f"{folder.name}.cli").main())
