"""The state of a training run in one file, replaced atomically, and without code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from histo.errors import HistoError
from histo.files.limits import check_regular
from histo.files.writing import written
from histo.model.weights import check_shapes

if TYPE_CHECKING:
    from fastai.learner import Learner

BEST = "best.safetensors"
LAST = "last.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Position:
    """The position of a training: epochs done, and batches done of the next one."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to resume with the same result as without an interruption.

    `tensors`: `model.NAME`, the optimizer's `opt.KEY.NAME` (none if a phase has just ended),
    `losses` float32 [batches of this epoch], and `logits` float32 [N, C] of the validation patches
    where the epoch that has just ended is the best. Randomness depends only on the seed and the
    position (`PatchDL`), so no generator state is stored. `facts` are JSON: the history, the best
    figure, seconds, gradient scaler.
    """

    position: Position
    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it beside the last one, flush, and replace that."""
        folder.mkdir(exist_ok=True)
        at = {"format": FORMAT, "epoch": self.position.epoch, "batch": self.position.batch}
        data = save(self.tensors, {"histo": json.dumps({**at, **self.facts})})
        with written(folder / LAST) as file:
            file.write(data)

    @classmethod
    def read(cls, folder: Path) -> Checkpoint | None:
        """The last checkpoint of a run; None if it has none yet."""
        path = folder / LAST
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["histo"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            made_by, at = facts.pop("format"), Position(facts.pop("epoch"), facts.pop("batch"))
        except (
            *(SafetensorError, OSError, TypeError, KeyError, ValueError),
            *(AttributeError, RecursionError),
        ):
            raise HistoError(f"{path} is damaged: the run cannot be resumed") from None
        if made_by != FORMAT:
            raise HistoError(f"{path} is of format {made_by!r}; this histo reads {FORMAT}")
        return cls(at, tensors, facts)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names have this prefix, without the prefix."""
        return {
            name.removeprefix(prefix): value
            for name, value in self.tensors.items()
            if name.startswith(prefix)
        }

    def restore(self, learn: Learner) -> None:
        """Restore model, optimizer and gradient scaler; a fit must have started."""
        model = learn.model
        try:
            model.load_state_dict(self.part("model."))
        except RuntimeError:
            raise HistoError(
                "the checkpoint is of another model: the run cannot be resumed"
            ) from None
        for name, p in model.named_parameters():
            for key in learn.opt.tensors_of(p):
                if f"opt.{key}.{name}" in self.tensors:
                    learn.opt.state[p][key].copy_(self.tensors[f"opt.{key}.{name}"])
        if self.facts.get("scaler"):
            learn.scaler.load_state_dict(self.facts["scaler"])


def capture(learn: Learner, *, phase_ended: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a learner between two batches, copied to the CPU.

    At the end of a phase, optimizer and scaler are left out: the next phase has new ones.
    """
    from fastai.torch_core import get_model

    model = get_model(learn.model)  # DistributedDataParallel wraps it
    found = {f"model.{name}": value for name, value in on_cpu(model.state_dict()).items()}
    if phase_ended:
        return found, {}
    for name, p in model.named_parameters():
        state = {k: v for k, v in learn.opt.state[p].items() if isinstance(v, Tensor)}
        found |= {f"opt.{key}.{name}": value for key, value in on_cpu(state).items()}
    scaler = getattr(learn, "scaler", None)
    return found, {"scaler": scaler.state_dict() if scaler else None}


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, contiguous, none shared."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def save_best(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the best weights beside the earlier ones, then replace those."""
    folder.mkdir(exist_ok=True)
    with written(folder / BEST) as file:
        file.write(save(dict(state)))


def load_best(folder: Path, model: nn.Module) -> None:
    """Load the best epoch's weights into a model of the same shape."""
    try:
        check_regular((folder / BEST).stat(), folder / BEST)
        check_shapes(folder / BEST, {k: tuple(v.shape) for k, v in model.state_dict().items()})
        model.load_state_dict(load_file(folder / BEST))
    except FileNotFoundError:
        raise HistoError(f"{folder.parent} has no checkpoint: no epoch of it ended") from None
    except (SafetensorError, RuntimeError, OSError, HistoError):
        raise HistoError(f"{folder / BEST} is damaged or of another model") from None
