"""`python -m histo` is `histo`, which imports nothing of the folder that it is called in.

For that Python has put this folder first in its path: a `json.py` there, or a `torch.py`, would be
imported. What Python itself imports before it comes here, `python -P -m histo` protects alone.
"""

import os
import sys

if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
    del sys.path[0]

from histo.cli import main

main()
