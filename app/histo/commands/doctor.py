"""`histo doctor`: what this machine has for histo, and the fix for each thing that is wrong.

Packages that may be broken are imported in a separate process. The output is meant for bug
reports: it names no user, host or folder.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from histo import __version__
from histo.distributed import ranks
from histo.screen import Progress, Screen, screen_of

HOST = "download.pytorch.org"
SECONDS = 300
"""Seconds after which a package that is still loading counts as broken."""
LITTLE_MEMORY = 4e9
LITTLE_DISK = 2e9
BOTH = "install the two together, from one index: pip install --force-reinstall torch torchvision"
LIBGL = "apt install libgl1 libglib2.0-0, or pip install opencv-python-headless for opencv-python"
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "fastai.vision.learner": "fastai",
    "cv2": "opencv-python",
    "onnxruntime": "onnxruntime",
    "onnx": "onnx",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "pandas": "pandas",
    "matplotlib.pyplot": "matplotlib",
    "PIL.Image": "pillow",
}
"""Packages that histo imports, and their names for pip."""
OPTIONAL = {"timm": "timm", "openslide": "openslide-python openslide-bin"}
"""Packages of extras, and what pip installs for them: loaded where they are installed."""
EXTRA = re.compile(r"([\w.-]+).*\bextra\s*==\s*['\"]([\w-]+)")
"""A requirement of an extra, as the metadata of histolearn has it: the package, and the extra."""
LOADS = (
    "import json, sys, {0}\nfacts = {{'version': sys.modules['{0}'.split('.')[0]].__version__}}\n"
)
MORE = {
    "torch": """
facts["built_for"] = torch.version.cuda or torch.version.hip or ""
facts["mps"] = torch.backends.mps.is_available()
there = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
gpus = [torch.cuda.get_device_properties(i) for i in there]
facts["gpus"] = [[g.name, g.total_memory, f"{g.major}.{g.minor}"] for g in gpus]
""",
    "torchvision": """
import os, torch
file = torchvision.models.get_model_weights("resnet50").DEFAULT.url.rpartition("/")[2]
facts["cached"] = os.path.isfile(os.path.join(torch.hub.get_dir(), "checkpoints", file))
""",
}
"""Run after the import, to learn more than the version."""


@dataclass(frozen=True)
class Probe:
    """One line of the output, the fix if it reports a fault, and whether training then fails."""

    name: str
    found: str
    fix: str = ""
    fatal: bool = False


ANSWER = "histo doctor: "
"""Before each answer of the process, among whatever packages print."""
CHILD = f"""
import json, sys, traceback
for code in json.loads(sys.argv[1]):
    found = {{}}
    try:
        exec(code, found)
        facts = found["facts"]
    except BaseException as error:
        facts = {{"error": traceback.format_exception_only(error)[-1].strip()}}
    print({ANSWER!r} + json.dumps(facts), flush=True)
"""
WIDTH = max(map(len, ["openslide", *PACKAGES.values(), "this folder"]))
PackageFacts = dict[str, Any]
"""Facts about a package: `version` and more, or `error` if it does not load."""


def doctor(*, progress: Progress = False) -> list[Probe]:
    """Examine this machine, print what it has for histo, and return it."""
    screen, findings = screen_of(progress), []
    for finding in examine(screen):
        findings.append(finding)
        screen.say(f"{finding.name:<{WIDTH}}  {finding.found}")
        if finding.fix:
            screen.say(f"{'':<{WIDTH}}  fix: {finding.fix}")
    return findings


def examine(screen: Screen) -> Iterator[Probe]:
    """Each finding as soon as it is known."""
    yield from machine()
    packages: dict[str, PackageFacts] = {}
    wanted = [*PACKAGES, *filter(find_spec, OPTIONAL)]
    tried = zip(wanted, try_packages(wanted), strict=True)
    with ThreadPoolExecutor(1) as pool:  # the network may take seconds to fail
        for module, facts in screen.track(tried, "loading packages", len(wanted)):
            packages[module] = facts
            if module == "torchvision":
                last = pool.submit(weights, facts)
            yield package(module, facts)
        yield from match(packages)
        yield extras()
        yield device(packages["torch"])
        yield last.result()


def try_packages(modules: Sequence[str]) -> Iterator[PackageFacts]:
    """Facts about each package, imported in a separate process; after one that fails, in a new one."""
    left = list(modules)
    while left:
        with closing(_load(left)) as answers:
            for facts in answers:
                left.pop(0)
                yield facts
                if "error" in facts:
                    break


def _load(modules: Sequence[str]) -> Generator[PackageFacts, None, None]:
    """Facts about packages that one process imports in turn, up to the first that it does not survive."""
    code = [LOADS.format(module) + MORE.get(module, "") for module in modules]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(code)],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONSAFEPATH": "1"},  # no torch.py of the current folder
        )
        try:
            for _ in modules:
                facts = _answer(child, said)
                yield facts
                if "error" in facts:
                    return
        finally:
            child.kill()
            child.communicate()


def _answer(child: subprocess.Popen[str], said: IO[str]) -> PackageFacts:
    """The next answer of the process, or how it ended without one."""
    assert child.stdout
    timer = threading.Timer(SECONDS, child.kill)
    timer.start()
    try:
        for line in child.stdout:
            if line.startswith(ANSWER):
                facts: PackageFacts = json.loads(line.removeprefix(ANSWER))
                return {**facts, "error": public(facts["error"])} if "error" in facts else facts
        status = child.wait()
        if not timer.is_alive() or status == 0:
            return {"error": f"no readable answer within {SECONDS} s"}
    finally:
        timer.cancel()
    said.seek(0)
    lines = said.read().strip().splitlines() or [f"it ends with status {status}"]
    return {"error": public(lines[-1])}


def public(text: str) -> str:
    """The text without folders, which may hold the name of a user or of a study."""
    for folder in (str(Path.home()), sys.prefix, os.getcwd()):  # noqa: PTH109  (as it is written)
        if len(folder) > 1:
            text = text.replace(folder, "…")
    # a part of a path may hold blanks; one before a slash begins another path
    part = r"(?:[^\s/\\'\":,;()]|[^\S\n](?![/\\]|[A-Za-z]:))+"
    text = re.sub(r"(['\"])…?(?:[A-Za-z]:)?[/\\][^'\"\n]*[/\\]", r"\1…/", text)
    start = r"(?:…|\b[A-Za-z]:|(?<![\w.:/\\…]))"
    return re.sub(rf"{start}[/\\](?:{part}[/\\])+", "…/", text)[:300]


def machine() -> Iterator[Probe]:
    """Python, memory, disk, and whether a run folder can be created here."""
    yield Probe("histo", __version__)
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Probe("Python", f"{platform.python_version()}, {system}, {ranks.cores()} cores")
    total, free = memory()
    few = "train with a smaller batch size, or close what else runs"
    told = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free" if total else "unknown"
    yield Probe("memory", told, few if total and free < LITTLE_MEMORY else "")
    yield writable()


def memory() -> tuple[int, int]:
    """Total and free bytes of memory, within the container's limit; zeros if unknown."""
    found = {}
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            found[name] = 1024 * int(value.split()[0])
    total, free = found.get("MemTotal", 0), found.get("MemAvailable", 0)
    with suppress(OSError, ValueError):
        most = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, free = min(total, most), min(free, most - used)
    return total, free


def writable() -> Probe:
    """Whether the current folder can be written to, and its free space."""
    try:
        with tempfile.TemporaryFile(dir=Path()):
            free = shutil.disk_usage(Path()).free
    except OSError as error:
        fix = "go to a folder that you may write to: a run is made in runs/ there"
        return Probe("this folder", f"cannot be written to ({error.strerror})", fix, fatal=True)
    fix = "make room: runs and decoded patches are kept on disk" if free < LITTLE_DISK else ""
    return Probe("this folder", f"can be written to, {free / 1e9:.1f} GB free", fix)


def package(module: str, facts: PackageFacts) -> Probe:
    """A package and its version, or why it does not load."""
    name, error = PACKAGES.get(module, module), facts.get("error", "")
    if not error:
        return Probe(name, facts["version"])
    if module in OPTIONAL:
        fix = f"pip install --force-reinstall {OPTIONAL[module]}"
        return Probe(name, f"does not load: {error}", fix)
    if "libGL" in error or "libgthread" in error or "libglib" in error:
        fix = LIBGL
    elif "torchvision::" in error or name in ("torch", "torchvision"):
        fix = BOTH
    elif "No module named" in error:
        missing = error.rpartition("No module named")[2].strip(" '\"").partition(".")[0]
        fix = f"pip install {PACKAGES.get(missing, name if missing == module else missing)}"
    else:
        fix = f"pip install --force-reinstall {name}"
    return Probe(name, f"does not load: {error}", fix, fatal=True)


def extras() -> Probe:
    """The extras of which every package is installed, and the others."""
    lacking: dict[str, bool] = {}
    with suppress(metadata.PackageNotFoundError):  # histo runs from its source
        for found in map(EXTRA.match, metadata.requires("histolearn") or []):
            if found:
                lacking[found[2]] = lacking.get(found[2], False) or not installed(found[1])
    there = ", ".join(sorted(name for name, lacks in lacking.items() if not lacks))
    others = ", ".join(sorted(name for name, lacks in lacking.items() if lacks))
    return Probe("extras", "; not installed: ".join([there or "none", *filter(None, [others])]))


def installed(package: str) -> bool:
    """Whether a package is installed, by its name for pip."""
    with suppress(metadata.PackageNotFoundError):
        return bool(metadata.version(package))
    return False


def match(packages: dict[str, PackageFacts]) -> Iterator[Probe]:
    """Whether torch and torchvision belong together, by their versions."""
    torch, vision = (packages[name].get("version", "") for name in ("torch", "torchvision"))
    wanted = ""
    with suppress(metadata.PackageNotFoundError):
        pins = [
            re.match(r"torch\s*\(?==([\d.]+)", x) for x in metadata.requires("torchvision") or []
        ]
        wanted = next((pin[1] for pin in pins if pin), "")
    if wanted and torch and torch.partition("+")[0] != wanted:
        found = f"this torchvision is made for torch {wanted}, not {torch}"
        yield Probe("the two", found, BOTH, fatal=True)
    elif torch and vision and torch.partition("+")[2] != vision.partition("+")[2]:
        yield Probe("the two", "are of different builds", BOTH)


def device(torch: PackageFacts) -> Probe:
    """The device that training would use, and whether there is a GPU that it cannot use."""
    if "error" in torch:
        return Probe("device", "unknown without torch")
    drivers = nvidia()
    if torch["gpus"]:
        told = [f"{name}, {m / 1e9:.0f} GB, compute {c}" for name, m, c in torch["gpus"]]
        return Probe("device", f"cuda {torch['built_for']}: {'; '.join(told)} ({drivers})")
    if torch["mps"]:
        return Probe("device", "mps")
    if not drivers:
        return Probe("device", "cpu: no NVIDIA driver answers")
    fix = (
        f"update the driver: this torch needs one for CUDA {torch['built_for']}"
        if torch["built_for"]
        else "this torch is built for CPUs only: install one for CUDA (pytorch.org/get-started)"
    )
    return Probe("device", f"cpu, though there is a GPU ({drivers})", fix)


def nvidia() -> str:
    """The NVIDIA driver's version, as nvidia-smi reports it; empty if there is none."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode == 0 and done.stdout.strip():
            return f"driver {done.stdout.split()[0]}"
    return ""


def weights(torchvision: PackageFacts) -> Probe:
    """Whether `--weights imagenet` would find its file."""
    if torchvision.get("cached"):
        return Probe("weights", "resnet50's are in the cache")
    if reachable():
        return Probe("weights", f"resnet50's are not in the cache; {HOST} can be reached")
    fix = "give train a weights file that you carried over, or none"
    return Probe("weights", f"not in the cache, and {HOST} cannot be reached", fix)


def reachable() -> bool:
    """Whether the host of the weights answers, even with an error page."""
    try:
        with urlopen(Request(f"https://{HOST}/", method="HEAD"), timeout=5):
            return True
    except HTTPError:
        return True
    except Exception:  # no name, no route, a proxy that refuses
        return False
