"""Tiles a second of TIAToolbox or LazySlide over a slide, with ResNet18 at 96 px and 0.972 µm per px.

    PYTHON slide_rivals.py tiatoolbox|lazyslide SLIDE

Runs in an environment of its own, without histo; prints a line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

SIDE, MPP, BATCH = 96, 0.972, 64


def resnet18() -> Any:
    """ResNet18 of two classes, weights at random: they cost no time."""
    import torch
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=2).eval()


def tiatoolbox(slide: Path) -> int:
    """PatchPredictor on the tissue that its own mask finds, as its examples have it; how many tiles."""
    from tiatoolbox.models.architecture.vanilla import CNNModel
    from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
    from tiatoolbox.models.engine.patch_predictor import PatchPredictor

    at = [{"units": "mpp", "resolution": MPP}]
    config = IOPatchPredictorConfig(
        input_resolutions=at,
        output_resolutions=at,
        patch_input_shape=(SIDE, SIDE),
        stride_shape=(SIDE, SIDE),
    )
    engine = PatchPredictor(CNNModel("resnet18", num_classes=2), batch_size=BATCH, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        found = engine.run(
            [slide],
            ioconfig=config,
            patch_mode=False,
            save_dir=Path(folder) / "out",
            output_type="zarr",
            return_probabilities=True,
            device="cpu",
        )
        import zarr

        group = zarr.open(str(next(iter(found.values()))), mode="r")
        return int(group["predictions"].shape[0])


def lazyslide(slide: Path) -> int:
    """Tissue, tiles and predictions, as its examples have it; how many tiles."""
    import lazyslide as zs
    import numpy as np
    import torch
    from torchvision.transforms import v2
    from wsidata import open_wsi

    class Model:
        """What tile_prediction asks of a model."""

        columns = None

        def __init__(self) -> None:
            self.net = resnet18()

        def to(self, device: str | None = None) -> Model:
            """Stays on the CPU."""
            return self

        def get_transform(self) -> Any:
            """As its models have it."""
            scale = v2.ToDtype(torch.float32, scale=True)
            mean, sd = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            return v2.Compose([v2.ToImage(), scale, v2.Normalize(mean, sd)])

        def predict(self, image: Any) -> dict[str, Any]:
            """The probability of the second class."""
            return {"p": self.net(image).softmax(1)[:, 1].numpy()}

    wsi = open_wsi(str(slide))
    zs.pp.find_tissues(wsi)
    zs.pp.tile_tissues(wsi, SIDE, mpp=MPP)
    zs.tl.tile_prediction(wsi, Model(), batch_size=BATCH, device="cpu", pbar=False)
    return int(np.asarray(wsi.shapes["tiles"]["p"]).shape[0])


def cpu_seconds() -> float:
    """CPU seconds of this process and of those it has waited for."""
    return sum(
        found.ru_utime + found.ru_stime
        for found in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    """Import first, for the clock is about the work."""
    warnings.filterwarnings("ignore")
    tool, slide = sys.argv[1], Path(sys.argv[2])
    started = time.perf_counter()
    module = __import__(tool)
    if tool == "tiatoolbox":
        import tiatoolbox.models.engine.patch_predictor  # noqa: F401
    imported = time.perf_counter() - started
    started, used = time.perf_counter(), cpu_seconds()
    tiles = globals()[tool](slide)
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - used
    version = getattr(module, "__version__", "")
    took = {"seconds": seconds, "cpu_seconds": cpu, "imports": imported}
    print(json.dumps({"tiles": tiles, **took, "version": version}))


if __name__ == "__main__":
    main()
