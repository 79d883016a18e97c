"""The names of all architectures, found without importing torch, which takes seconds."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from histo.errors import HistoError
from histo.model.foundation import FOUNDATIONS

TORCHVISION = re.compile(
    r"^@register_model\((?:name=\"(\w+)\")?\)\n(?:@.*\n|\))*?def (\w+)\(", re.M
)
TIMM = re.compile(r"^@register_model\ndef (\w+)\(", re.M)


@cache
def torchvision_classifiers() -> frozenset[str]:
    """The classifiers of torchvision, as its sources register them."""
    folder = _folder("torchvision")
    found = (m for path in sorted(folder.glob("*.py")) for m in TORCHVISION.findall(_text(path)))
    return frozenset(name or function for name, function in found)


@cache
def timm_models() -> frozenset[str]:
    """The models of timm, as its sources register them; none if timm is not installed."""
    if find_spec("timm") is None:
        return frozenset()
    paths = sorted(_folder("timm").glob("*.py"))
    return frozenset(name for path in paths for name in TIMM.findall(_text(path)))


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    return Path(next(iter(spec.submodule_search_locations or ())), "models")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def check_arch(arch: str) -> None:
    """HistoError for a name that neither torchvision nor timm has, with similar names."""
    if arch in torchvision_classifiers() or arch.partition(".")[0] in timm_models():
        return
    if arch in FOUNDATIONS and timm_models():
        return
    if arch in FOUNDATIONS:
        raise HistoError(
            f"{arch} needs timm, which is not installed: pip install 'histolearn[timm]'"
        )
    known = sorted(torchvision_classifiers() | timm_models() | FOUNDATIONS.keys())
    near = ", ".join(difflib.get_close_matches(arch.lower(), known, n=3, cutoff=0.3))
    nearest = f": the nearest are {near}" if near else ""
    more = "" if timm_models() else "; timm's names need timm to be installed"
    raise HistoError(f"no arch {arch!r}{nearest}{more}")
