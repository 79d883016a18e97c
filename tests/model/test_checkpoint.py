"""A checkpoint holds all that training needs, and gives it back."""

from __future__ import annotations

import json

import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner
from safetensors.torch import load_file, save_file

from histo.errors import HistoError
from histo.model.checkpoint import BEST, LAST, Checkpoint, Position, capture, load_best, save_best
from histo.training.callbacks import Epoch
from histo.training.recipe import Plan, fit
from tests.small import report, watched_learner


class Stop(Callback):
    """Ends a fit once the checkpoint has been restored, and keeps what there is then."""

    order = 70

    def before_fit(self) -> None:
        """After `Watch`."""
        self.found = capture(self.learn, phase_ended=False)
        raise CancelFitException


def test_what_was_captured_is_what_is_restored_and_training_changes_it_no_more(tmp_path):
    """Weights, running means, the optimizer's moments and steps of all layers, the scaler."""
    learn, _, kept = watched_learner()
    learn.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    fit(learn, Plan(0, 1, 1e-3, discriminative=False))
    _, middle, last = kept[:3]
    names = [name for name, _ in learn.model.named_parameters()]
    assert not torch.equal(*(k.tensors[f"model.{names[0]}"] for k in (middle, last)))
    moments = {f"opt.{key}.{n}" for n in names for key in ("grad_avg", "sqr_avg", "step")}
    assert moments <= middle.tensors.keys()
    assert all(last.tensors[f"opt.step.{name}"] == 3 for name in names)

    middle.write(tmp_path)
    read = Checkpoint.read(tmp_path)
    assert read
    assert read.position == middle.position == Position(0, 2)
    learn, watch, _ = watched_learner(stop := Stop())
    learn.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    watch.begin, watch.at = read, read.position
    fit(learn, Plan(0, 1, 1e-3, discriminative=False), read.position)
    tensors, facts = stop.found
    assert tensors.keys() == middle.tensors.keys()
    assert all(torch.equal(tensors[name], middle.tensors[name]) for name in tensors)
    assert facts["scaler"]["scale"] == 8


@pytest.mark.parametrize("facts", ['"text"', "5", "[1]", "[" * 100_000, "{}", "NaN"])
def test_a_checkpoint_whose_facts_are_none_is_damaged(tmp_path, facts):
    save_file({"a": torch.zeros(1)}, tmp_path / LAST, {"histo": facts})
    with pytest.raises(HistoError, match=r"is damaged: the run cannot be resumed"):
        Checkpoint.read(tmp_path)


def test_from_the_end_of_the_heads_epochs_training_goes_on_as_if_unbroken():
    """The optimizer begins anew there, and so it does after a break."""
    plan, ends = Plan(1, 1, 1e-3, discriminative=True), []

    def keep(learn: Learner, seen: Epoch) -> None:
        report(learn)
        state = capture(learn, phase_ended=seen.phase_ended)
        ends.append(Checkpoint(Position(seen.number), *state))

    whole, watch, _ = watched_learner()
    watch.on_epoch = keep
    fit(whole, plan)
    again, watch, _ = watched_learner()
    watch.begin, watch.at = ends[0], Position(1)
    fit(again, plan, Position(1))
    expected = whole.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.model.state_dict().items())
    assert not torch.equal(*(end.tensors["model.1.1.weight"] for end in ends))


@pytest.mark.parametrize("found", [0, 2])
def test_a_checkpoint_of_another_format_is_not_gone_on_with(tmp_path, found):
    Checkpoint(Position(1), {"model.a": torch.ones(2)}, {}).write(tmp_path)
    at = {"format": found, "epoch": 1, "batch": 0}
    save_file(load_file(tmp_path / LAST), tmp_path / LAST, {"histo": json.dumps(at)})
    with pytest.raises(HistoError, match=f"is of format {found}; this histo reads 1"):
        Checkpoint.read(tmp_path)


def test_a_checkpoint_of_another_model_is_refused():
    learn, watch, _ = watched_learner()
    watch.begin = Checkpoint(Position(), {"model.a": torch.ones(2)}, {})
    with pytest.raises(HistoError, match="is of another model"):
        fit(learn, Plan(0, 1, 1e-3, discriminative=False))


def test_the_best_weights_are_those_of_the_model_or_refused(tmp_path):
    model = torch.nn.Linear(2, 1)
    with pytest.raises(HistoError, match="has no checkpoint: no epoch of it ended"):
        load_best(tmp_path / "checkpoint", model)
    save_best(tmp_path / "checkpoint", torch.nn.Linear(3, 1).state_dict())
    with pytest.raises(HistoError, match="is damaged or of another model"):
        load_best(tmp_path / "checkpoint", model)
    (tmp_path / "checkpoint" / BEST).write_bytes(b"cut")
    with pytest.raises(HistoError, match="is damaged or of another model"):
        load_best(tmp_path / "checkpoint", model)
    other = torch.nn.Linear(2, 1)
    save_best(tmp_path / "checkpoint", other.state_dict())
    load_best(tmp_path / "checkpoint", model)
    assert torch.equal(model.weight, other.weight)
