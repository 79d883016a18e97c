"""`python -m histo` is `histo`, which imports nothing of the folder that it is called in.

For that Python has put this folder first in its path: a `json.py` there, or a `torch.py`, would be
imported. What Python itself imports before it comes here, `python -P -m histo` protects alone.
"""

import os
import signal
import sys


def main() -> None:
    """The `histo` program: Ctrl-C while it is still being imported ends it without a traceback."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from histo import cli

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
        del sys.path[0]
    main()
