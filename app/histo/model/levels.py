"""A body whose features are of all its depths, as a probe sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from histo.errors import HistoError
from histo.model.body import watch

DEPTH = 2
"""Blocks are children of the body, or children of these."""
MOST = 4096
"""Features of all levels together, at most: more cost the fit of a head minutes, and hardly help it."""


class Levels(nn.Module):
    """Normalised patches [B, 3, S, S] to the mean of each block's output and the body's own features.

    The last features of a body are made for the classes of its first training; textures of tissue
    are in its earlier blocks. For a head on a frozen body all together are far better
    (docs/measurements.md); that they help a linear classifier is known from Guillaume Alain and
    Yoshua Bengio, arXiv:1610.01644, and "Head2Toe", Evci et al., arXiv:2201.03529.
    """

    def __init__(self, body: nn.Module, names: list[str]) -> None:
        """Raises HistoError for a name that the body does not have."""
        super().__init__()
        self.body, self.names = body, names
        known = dict(body.named_modules())
        for name in names:
            if name not in known:
                raise HistoError(f"the body has no block {name!r}")

    def forward(self, patches: Tensor) -> Tensor:
        """Features [B, F], those of the first block first."""
        found: list[Any] = []

        def keep(_module: nn.Module, _given: object, output: object) -> None:
            if isinstance(output, Proxy):  # of a trace, whose shapes are not known
                found.append(output.mean((2, 3)))
                return
            if not (isinstance(output, Tensor) and output.ndim == 4):
                raise HistoError("a block that is named as a level gives no map")
            found.append(output.mean((2, 3)))

        blocks = [self.body.get_submodule(name) for name in self.names]
        hooks = [block.register_forward_hook(keep) for block in blocks]
        try:
            last = self.body(patches)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([*found, last], 1)

    def without_histo(self) -> nn.Module:
        """The same as a traced graph, which a pickle holds without this class.

        Raises what torch.fx raises for a body whose code it cannot follow.
        """

        class Tracer(torch.fx.Tracer):  # within this method, so that the graph does not name it
            """Follows the code of modules with parts; the others, such as convolutions, are kept."""

            def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
                """Whether a module is kept as it is."""
                return next(m.children(), None) is None

        return torch.fx.GraphModule(self, Tracer().trace(self))


def blocks_of(body: nn.Module, side: int) -> list[str]:
    """The blocks of a body whose outputs are maps [B, C, h, w], by name, for patches of `side` px.

    The last is left out: the body's own features are made of it. Every block, if these are few
    features, else the last of each larger size. None of a body with tokens or with maps [B, h, w, C].
    """
    seen: list[tuple[str, Tensor]] = []

    def note(name: str, output: Tensor) -> None:
        if not any(output is known for _, known in seen):
            seen.append((name, output))

    blocks = [
        (name, module)
        for name, module in body.named_modules()
        if name and name.count(".") < DEPTH and next(module.children(), None) is not None
    ]
    last = watch(body, side, blocks, note).shape[1]
    maps = {name: output.shape[1:] for name, output in seen if is_map(output)}
    every, least = list(maps)[:-1], min((shape[1] for shape in maps.values()), default=0)
    ends = {maps[name][1]: name for name in every if maps[name][1] > least}
    for chosen in (every, [*ends.values()]):
        if last + sum(maps[name][0] for name in chosen) <= MOST:
            return chosen
    return []


def is_map(output: Tensor) -> bool:
    """Whether an output is a square map [B, C, h, w] of more than one place."""
    return output.ndim == 4 and output.shape[2] == output.shape[3] > 1
