"""fastai's optimizer with PyTorch's fused step."""

from __future__ import annotations

from typing import Any

import torch
from fastai.optimizer import Optimizer
from torch import Tensor
from torch.optim.adamw import adamw


class FusedAdamW(Optimizer):  # type: ignore[misc]
    """fastai's `Adam` with decoupled weight decay, stepped by one fused kernel per layer group.

    Groups, hyperparameters, schedules, freezing and exemptions from weight decay are those of
    fastai's `Optimizer`; only the arithmetic of the step is PyTorch's (Loshchilov and Hutter,
    arXiv:1711.05101), equal to fastai's up to rounding.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        mom: float = 0.9,
        sqr_mom: float = 0.99,
        eps: float = 1e-5,
        wd: float = 0.01,
    ) -> None:
        super().__init__(params, [], lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Step every parameter that has a gradient."""
        for group, hyper in zip(self.param_lists, self.hypers, strict=True):
            with_grad = [p for p in group if p.grad is not None]
            for decays in (True, False):
                params = [p for p in with_grad if self.state[p].get("do_wd", True) is decays]
                if params:
                    self._step(params, hyper, hyper["wd"] if decays else 0.0)

    def _step(self, params: list[Tensor], hyper: dict[str, float], decay: float) -> None:
        states = [self._started(p) for p in params]
        adamw(
            params,
            [p.grad for p in params],  # type: ignore[misc]
            [state["grad_avg"] for state in states],
            [state["sqr_avg"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=hyper["mom"],
            beta2=hyper["sqr_mom"],
            lr=hyper["lr"],
            weight_decay=decay,
            eps=hyper["eps"],
        )

    def tensors_of(self, p: Tensor) -> tuple[str, ...]:
        """The tensors of a parameter's `state` by name, created if there are none yet."""
        self._started(p)
        return "grad_avg", "sqr_avg", "step"

    def _started(self, p: Tensor) -> dict[str, Tensor]:
        """A parameter's new state, under fastai's names; the step is a tensor on its device."""
        state: dict[str, Tensor] = self.state[p]
        if "step" not in state:
            state["grad_avg"], state["sqr_avg"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] = torch.zeros((), device=p.device)
        return state

    def zero_grad(self) -> None:
        """Set the gradients to None: the next backward pass writes them instead of adding to zeros."""
        for group in self.param_lists:
            for p in group:
                p.grad = None
