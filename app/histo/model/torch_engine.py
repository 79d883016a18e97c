"""Predict with the weights of a bundle in PyTorch: on a GPU, or if there is no ONNX model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from histo.config import ModelCard
from histo.errors import HistoError
from histo.model.bundle_files import BundleFiles
from histo.model.card import WEIGHTS, bundle_path
from histo.model.network import PixelsToProbabilities, make_model, shapes_of
from histo.model.onnx import engine_name
from histo.model.weights import check_shapes


class TorchEngine:
    """A model on a device: uint8 [B, S, S, 3] to probabilities float32 [B, C]."""

    def __init__(
        self, card: ModelCard, model: nn.Module, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.device, self.precision = device, precision
        self.model = PixelsToProbabilities(model, card).eval().to(device)
        self.model = self.model.to(memory_format=torch.channels_last)

    @property
    def name(self) -> str:
        """The same for each GPU of a machine."""
        return engine_name("PyTorch", self.precision, self.device.type)

    @classmethod
    def open(cls, files: BundleFiles, device: torch.device, precision: str = "fp32") -> TorchEngine:
        """Load the weights of a bundle, after a check that their shapes are those of its card's model.

        No pickle is read, and no memory is allocated before the check.
        """
        path = bundle_path(files.folder, WEIGHTS)
        check_shapes(path, shapes_of(files.card))
        data = files.read(WEIGHTS)
        model = make_model(files.card)
        try:
            model.load_state_dict(load(data))
        except (SafetensorError, RuntimeError):
            raise HistoError(f"{path} does not fit the model of its card") from None
        return cls(files.card, model, device, precision)

    def put(self, patches: NDArray[np.uint8]) -> Tensor:
        """The patches on the device."""
        batch = torch.from_numpy(patches)
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        return batch.to(self.device, non_blocking=True)

    def run(self, batch: Tensor) -> Tensor:
        """Probabilities float32 [B, C], on the device."""
        bf16 = self.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=bf16),
        ):
            probabilities: Tensor = self.model(batch)
        return probabilities

    def get(self, probabilities: Tensor) -> NDArray[np.float32]:
        """Copied from the device."""
        return np.asarray(probabilities.cpu().numpy())
