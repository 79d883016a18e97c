"""`histo` with dropout off and every loss printed: `python -m tests.launched ARGS…`.

Shares of a batch must have other dropout masks than the whole, so that only without dropout is the
step of several processes the step of one.
"""

from __future__ import annotations

import sys

import torch

from histo import ranks
from histo.cli import main
from histo.model.fit import Watch


def after_epoch(self: Watch) -> None:
    """The losses of all batches of an epoch, before they are let go."""
    if self.running and ranks.rank() == 0:
        print("losses:", *(f"{float(loss):.9g}" for loss in self.losses), flush=True)
    said(self)


torch.nn.Dropout.forward = lambda self, x: x  # type: ignore[method-assign]
said, Watch.after_epoch = Watch.after_epoch, after_epoch  # type: ignore[method-assign]
if __name__ == "__main__":
    sys.argv[0] = "histo"
    main()
