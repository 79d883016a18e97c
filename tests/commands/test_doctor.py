"""doctor: what is there, what is broken, and the way out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from histo.commands import doctor
from histo.commands.doctor import (
    BOTH,
    LOADS,
    MORE,
    OPTIONAL,
    PACKAGES,
    Probe,
    device,
    match,
    memory,
    public,
    try_packages,
    weights,
)
from tests.conftest import histo_process

TORCH = f"""
__version__ = "{metadata.version("torch").partition("+")[0]}+cpu"  # as torchvision's metadata asks
from types import SimpleNamespace as S
version = S(cuda=None, hip=None)
backends = S(mps=S(is_available=lambda: False))
cuda = S(is_available=lambda: False)
hub = S(get_dir=lambda: "none")
"""
VISION = """
__version__ = "0.29.2+cpu"
from types import SimpleNamespace as S
models = S(get_model_weights=lambda arch: S(DEFAULT=S(url="https://host/resnet50-1.pth")))
"""
LIBGL = "libGL.so.1: cannot open shared object file: No such file or directory"
NMS = "operator torchvision::nms does not exist"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of packages that load at once, to be put before the real ones."""
    for module in [*PACKAGES, *OPTIONAL]:
        folder = tmp_path.joinpath("site", *module.split("."))
        folder.mkdir(parents=True)
        for part in (folder, folder.parent):
            if part != tmp_path / "site":
                (part / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "site" / "fastai" / "vision" / "__init__.py").touch()
    (tmp_path / "site" / "fastai" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "site" / "torch" / "__init__.py").write_text(TORCH)
    (tmp_path / "site" / "torchvision" / "__init__.py").write_text(VISION)
    return tmp_path / "site"


def run_doctor(site: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The real command, where `site` comes first; the network's proxy is dead."""
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    dead = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    return histo_process("doctor", env={**os.environ, **dead, "PYTHONPATH": path}, cwd=cwd)


def breaks(site: Path, module: str, code: str) -> None:
    (site.joinpath(*module.split(".")) / "__init__.py").write_text(code)


def test_a_machine_where_all_loads_can_train(broken):
    done = run_doctor(broken, broken.parent)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "training can work here"
    for said in ("histo ", "Python ", "memory ", "this folder    can be written to", "fastai"):
        assert any(line.startswith(said) for line in lines), said
    assert any(line.startswith("openslide ") and line.endswith(" 1.2.3") for line in lines)
    (line,) = [line for line in lines if line.startswith("weights")]
    assert "not in the cache, and download.pytorch.org cannot be reached" in line
    assert "weights file" in lines[lines.index(line) + 1]


@pytest.mark.parametrize("module", ["torch", "torchvision"])
def test_the_real_packages_say_what_is_asked_of_them(module):
    """The very code that a process of their own would run."""
    found: dict[str, Any] = {}
    exec(LOADS.format(module) + MORE[module] + "print(json.dumps(facts))", found)
    facts = found["facts"]
    assert facts["version"].partition("+")[0] == metadata.version(module).partition("+")[0]
    if module == "torch":
        assert device(facts).found.startswith(("cpu", "cuda", "mps"))
    else:
        assert weights({**facts, "cached": True}).fix == ""
        assert type(facts["cached"]) is bool


BROKEN = {
    "cv2": (f"raise ImportError({LIBGL!r})", "libGL.so.1", "apt install libgl1"),
    "torchvision": (f"raise RuntimeError({NMS!r})", "torchvision::nms", "from one index"),
    "torch": ("raise OSError('/home/jane/x/libtorch.so: no')", "…/libtorch.so: no", "torch"),
    "onnxruntime": ("import os; os._exit(7)", "with status 7", "--force-reinstall onnxruntime"),
    "onnx": ("import h6py", "No module named 'h6py'", "pip install h6py"),
    "pandas": ("import sklearn.no", "No module named 'sklearn.no'", "pip install scikit-learn"),
    "safetensors": (
        "import os; os._exit(0)",
        "no readable answer",
        "--force-reinstall safetensors",
    ),
    "PIL.Image": ("syntax error", "SyntaxError", "--force-reinstall pillow"),
}
"""What a package does when it is imported, what is said of that, and the fix."""


def test_whatever_is_broken_is_named_with_its_fix(broken):
    """All of it at once, and the status is 1: training cannot work."""
    for module, (code, _, _) in BROKEN.items():
        breaks(broken, module, code)
    done = run_doctor(broken)
    assert done.returncode == 1
    assert done.stderr == "error: training cannot work here: see each fix above\n"
    lines = done.stdout.splitlines()
    for module, (_, found, fix) in BROKEN.items():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{PACKAGES[module]} ")]
        assert found in lines[at]
        assert lines[at + 1].strip().startswith("fix: ")
        assert fix in lines[at + 1]
    assert "jane" not in done.stdout
    assert "unknown without torch" in done.stdout


def test_an_extra_that_is_broken_is_named_and_training_still_can_work(broken):
    breaks(broken, "openslide", "raise ModuleNotFoundError('Couldn\\'t locate OpenSlide')")
    done = run_doctor(broken)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("openslide ")]
    assert "does not load: ModuleNotFoundError: Couldn't locate OpenSlide" in lines[at]
    assert lines[at + 1].strip() == f"fix: pip install --force-reinstall {OPTIONAL['openslide']}"


def test_extras_are_named_as_installed_when_every_package_of_them_is(monkeypatch):
    wanted = ["fastai>=2.8", 'timm>=1.0; extra == "timm"', 'h5py>=3.14; extra == "features"']
    wanted += [
        'pyarrow>=17; extra == "features"',
        "x_1>=2; sys_platform == 'linux' and extra == 'x'",
    ]
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(doctor, "installed", {"timm", "h5py", "x_1"}.__contains__)
    assert doctor.extras().found == "timm, x; not installed: features"


def test_a_package_that_is_not_there_is_named_as_pip_calls_it(monkeypatch):
    monkeypatch.setitem(PACKAGES, "cv3", "opencv-python-three")
    found = doctor.package("cv3", *try_packages(["cv3"]))
    assert found.fix == "pip install opencv-python-three"
    assert found.fatal


def test_torch_and_torchvision_must_be_of_one_make(monkeypatch):
    packages = {"torch": {"version": "2.14.0"}, "torchvision": {"version": "0.29.2"}}
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy", "torch==2.15.0"])
    (found,) = match(packages)
    assert (found.fix, found.fatal) == (BOTH, True)
    assert "made for torch 2.15.0, not 2.14.0" in found.found
    packages["torch"]["version"] = "2.15.0+cpu"
    (found,) = match(packages)
    assert (found.found, found.fatal) == ("are of different builds", False)
    packages["torchvision"]["version"] = "0.29.2+cpu"
    assert list(match(packages)) == []


def test_a_folder_that_cannot_be_written_to_is_fatal(broken):
    if not Path("/proc/self").is_dir():
        pytest.skip("no folder here that nobody can write to")
    done = run_doctor(broken, Path("/proc/self"))
    assert done.returncode == 1
    assert "this folder    cannot be written to" in done.stdout


GPU = {"version": "2", "built_for": "13.2", "mps": False, "gpus": [["H100", 85e9, "9.0"]]}


def test_the_device_is_told_and_a_gpu_that_lies_idle(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert device(GPU).found == "cuda 13.2: H100, 85 GB, compute 9.0 (driver 580.1)"
    idle = device({**GPU, "gpus": []})
    assert idle == Probe(
        "device",
        "cpu, though there is a GPU (driver 580.1)",
        "update the driver: this torch needs one for CUDA 13.2",
    )
    assert "built for CPUs only" in device({**GPU, "gpus": [], "built_for": ""}).fix
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert device({**GPU, "gpus": []}).found == "cpu: no NVIDIA driver answers"
    assert device({**GPU, "gpus": [], "mps": True}).found == "mps"
    assert device({"error": "x"}).found == "unknown without torch"


def test_weights_in_the_cache_need_no_network(monkeypatch):
    monkeypatch.setattr(doctor, "reachable", lambda: pytest.fail("it asked"))
    assert weights({"cached": True}) == Probe("weights", "resnet50's are in the cache")
    monkeypatch.setattr(doctor, "reachable", lambda: True)
    assert weights({}).fix == ""


def test_memory_is_told_in_bytes():
    total, free = memory()
    if Path("/proc/meminfo").is_file():
        assert 1e8 < free <= total < 1e14


def test_a_line_that_is_shown_names_no_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/Jane Doe")
    said = public('File "/home/Jane Doe/study 3/a.py" of C:\\Users\\jane\\b.dll and /mnt/x/y.so')
    assert said == 'File "…/a.py" of …/b.dll and …/y.so'
    assert (
        public("OSError: /mnt/Study of Jane/my venv/libtorch.so: no")
        == "OSError: …/libtorch.so: no"
    )
    assert public("'D:\\Jane Doe\\x.dll' or and/or") == "'…/x.dll' or and/or"
