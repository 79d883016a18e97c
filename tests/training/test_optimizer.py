"""The fused optimizer."""

from __future__ import annotations

import copy

import torch
from fastai.optimizer import Adam
from torch import nn

from histo.training.optimizer import FusedAdamW


def make(kind):
    """A small net with a frozen part, its layer groups, and an optimizer told as a Learner tells."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    groups = [list(net[0].parameters()), [*net[1].parameters(), *net[2].parameters()]]
    opt = kind(groups, lr=0.1, wd=0.1)
    for module in net:
        opt.state[module.bias]["do_wd"] = False
    return net, opt


def test_the_fused_step_follows_fastais_own_adam_to_rounding():
    """Through a schedule of rates and momenta, discriminative rates, freezing and unfreezing."""
    pairs = [make(Adam), make(FusedAdamW)]
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)).double()
    y = torch.arange(16) % 3
    for step in range(40):
        for net, opt in pairs:
            if step in (0, 10):
                opt.freeze_to(1 if step == 0 else 0)
                opt.clear_state()
            opt.set_hyper("lr", slice(0.003 + 0.001 * step, 0.03))
            opt.set_hyper("mom", 0.95 - 0.002 * step)
            nn.functional.cross_entropy(net(x), y).backward()
            opt.step()
            opt.zero_grad()
        for ours, theirs in zip(*(net.parameters() for net, _ in pairs), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    first, _ = make(Adam)
    assert not torch.allclose(first[0].weight, pairs[0][0][0].weight)


def test_its_state_can_be_saved_and_taken_up():
    net, opt = make(FusedAdamW)
    net(torch.ones(2, 4).double()).sum().backward()
    opt.step()
    other, again = make(FusedAdamW)
    other.load_state_dict(net.state_dict())
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    for model, optimizer in ((net, opt), (other, again)):
        optimizer.zero_grad()
        model(torch.ones(2, 4).double()).square().sum().backward()
        optimizer.step()
    assert torch.equal(net[0].weight, other[0].weight)
