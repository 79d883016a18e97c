"""Fail every write of every command, one at a time, and judge what is left.

    python -m tests.writes FOLDER [--commands train,export] [--faults kill,full,broken,readonly]
        [--every 1] [--short] [--most N]

A process that has imported all forks a child for each command line. A shim in the child (audit hook,
`os.fsync`, the raw writes of files) counts what changes files under FOLDER, and at the n-th such
operation, n = 1, 2, …, either dies by SIGKILL, or finds the disk full from then on (ENOSPC), broken
once (EIO), or mounted read-only from then on (EROFS). Then the same words are given again. In the end
there must be what an unbroken run leaves, byte for byte where two of those agree, and nothing beside it.
As root, `--faults remounted` works on a disk of its own, which the kernel itself makes read-only.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histo.cli import app
from histo.data.synth import write_dataset
from histo.screen import Screen
from tests import disks
from tests.kills import ended

HERE = "here"
"""The folder of a trial."""
WRITES_OF_A_FILE = 2
"""Of each open file so many raw writes are counted: the first leaves it empty, the second torn."""
REMOUNTED = "remounted"
"""The fault that needs root, which is not among those of the default."""
FAULTS = {"kill": 0, "full": errno.ENOSPC, "broken": errno.EIO, "readonly": errno.EROFS}
FAULTS[REMOUNTED] = 0
LASTING = ("full", "readonly")
"""Faults of every operation from the n-th on."""
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
GROWS = {"open", "os.mkdir", "os.link", "os.symlink", "write", "fsync"}
"""What needs room."""
ABORTED: list[str] = []
"""What torch said in children that it aborted."""
TRAIN = ("--arch", "squeezenet1_1", "--weights", "none", "--device", "cpu", "--batch-size", "16")
TRAIN += ("--epochs", "1", "--freeze-epochs", "1", "--checkpoint-minutes", "0")
PROBE = ("train", "data", "--out", "run", "--probe", *TRAIN[:8])
NAMED = re.compile(r"histo ((?:train --resume|interpret) \S+)\)")
"""A command that an error names as the way out."""


@dataclass
class Shim:
    """Counts operations that change files under `root`; at the `at`-th it does what `fault` says."""

    root: Path
    at: int = 0
    fault: str = ""
    done: list[str] = field(default_factory=list)
    writes: dict[int, int] = field(default_factory=dict)
    failing: bool = False
    busy: bool = False

    def step(self, what: str, path: str, torn: Callable[[], object] = lambda: None) -> None:
        """One operation on `path`, about to be done; `torn` does half of it."""
        path = os.path.normpath(Path.cwd() / path)
        if not path.startswith(f"{self.root}{os.sep}"):
            return
        self.done.append(f"{what} {normal(os.path.relpath(path, self.root))}")
        now = len(self.done) == self.at
        if now and self.fault == "kill":
            torn()
            os.kill(os.getpid(), signal.SIGKILL)
        if now and self.fault == REMOUNTED:
            disks.make_read_only(self.root)
        self.failing = self.failing or (now and self.fault in LASTING)
        lasting = self.failing and (self.fault == "readonly" or what in GROWS)
        if lasting or (now and self.fault == "broken"):
            if self.fault != "readonly":
                torn()
            number = FAULTS[self.fault]
            raise OSError(number, os.strerror(number), None if what in ("write", "fsync") else path)

    def audit(self, event: str, given: tuple[Any, ...]) -> None:
        """The audit hook: opening for writing, renaming, making and removing."""
        if self.busy or (event != "open" and event not in CHANGES):
            return
        name = given[0]
        if isinstance(name, int) or name is None:
            return
        if event == "open" and not given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            return
        folder = given[-1] if event in ("os.remove", "os.rmdir") else -1
        self.busy = True
        try:
            path = os.fsdecode(name)
            if isinstance(folder, int) and folder >= 0:
                path = str(Path(place_of(folder), path))
            self.step(event, path)
        finally:
            self.busy = False

    def install(self) -> None:
        """Stand in the way of everything in this process from here on."""
        real_open, real_fsync, shim = io.open, os.fsync, self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                handle = self.fileno()
                count = shim.writes.get(id(self), 0)
                shim.writes[id(self)] = count + 1
                if count < WRITES_OF_A_FILE or shim.failing:
                    half = memoryview(data).cast("B")[: max(1, memoryview(data).nbytes // 2)]
                    place = place_of(handle)
                    shim.step("write", place, lambda: os.write(handle, half))
                return super().write(data) or 0

        def opened(file: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
            made = real_open(file, mode, *given, **named)
            if isinstance(made, io.TextIOWrapper) and made.writable():
                told = (made.encoding, made.errors, named.get("newline"))
                binary = mode.replace("t", "") + "b"
                return io.TextIOWrapper(wrapped(made.detach(), binary), *told)
            return wrapped(made, mode) if made.writable() else made

        def wrapped(made: Any, mode: str) -> Any:
            handle = made if isinstance(made, io.FileIO) else made.detach()
            raw = Raw(os.dup(handle.fileno()), mode.replace("b", "").replace("x", "w") + "b")
            handle.close()
            if isinstance(made, io.FileIO):
                return raw
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        def fsync(handle: Any) -> None:
            number = handle if isinstance(handle, int) else handle.fileno()
            shim.step("fsync", place_of(number))
            real_fsync(number)

        io.open = builtins.open = opened  # type: ignore[assignment]
        os.fsync = fsync  # type: ignore[assignment]
        sys.addaudithook(self.audit)


def place_of(handle: int) -> str:
    """The path of what is open."""
    return str(Path(f"/proc/self/fd/{handle}").readlink())


def normal(name: str) -> str:
    """A name without what is drawn at random in it."""
    name = re.sub(r"\.[0-9a-f]{8}\.histo", ".X.histo", name)
    name = re.sub(r"-[0-9a-f]{8}\.npy", "-X.npy", name)
    return re.sub(r"(features-[0-9a-f]+/\.?)[0-9a-f]{12}\.npz", r"\1X.npz", name)


@dataclass(frozen=True)
class End:
    """How a command line ended: its status (minus a signal), what it said on stderr, what it did."""

    status: int | None
    said: str
    done: list[str]

    @property
    def line(self) -> str:
        """The one line of an expected error; nothing for another end."""
        lines = [line for line in self.said.splitlines() if line.startswith("error")]
        good = self.status == 1 and len(lines) == 1 and "Traceback" not in self.said
        return lines[0] if good else ""


def run(words: list[str], folder: Path, at: int = 0, fault: str = "") -> End:
    """One histo command line in a child, in `folder`, with a fault at its n-th operation.

    torch now and then aborts as a forked child starts its threads, before anything is written: again.
    """
    end = run_once(words, folder, at, fault)
    if end.status == -signal.SIGABRT:
        ABORTED.append(end.said)
        return run(words, folder, at, fault)
    return end


def run_once(words: list[str], folder: Path, at: int, fault: str) -> End:
    """One child."""
    log = folder.with_suffix(".log")
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = live(words, folder, log, at, fault)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = ended(child, 300)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    done = log.with_suffix(".done")
    steps = json.loads(done.read_text()) if done.is_file() else []
    done.unlink(missing_ok=True)
    return End(status, log.read_text(errors="replace"), steps)


def live(words: list[str], folder: Path, log: Path, at: int, fault: str) -> int:
    """The life of a child."""
    os.chdir(folder)
    null = os.open(os.devnull, os.O_RDWR)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(handle, 2)
    shim = Shim(folder, at, fault)
    shim.install()
    try:
        status = int(app(words, standalone_mode=False) or 0)
    except SystemExit as error:
        status = int(error.code or 0)
    sys.stderr.flush()
    shim.fault = ""
    if not at:
        log.with_suffix(".done").write_text(json.dumps(shim.done))
    return status


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its name; a folder that is empty too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = normal(str(path.relative_to(folder)))
        if path.is_file():
            found[name] = path.read_bytes()
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = b""
    return found


@dataclass(frozen=True)
class Command:
    """A command line to be tried."""

    name: str
    words: list[str]
    base: Path
    """the folder that it is given, copied for each trial"""
    refused: str = ""
    """the line that may answer the same words after a fault, where what was made is left as it is"""


TIMED = ("environment.json", "slide.json", "slides.csv")
"""Files that hold the time, or how long it took."""


class Walk:
    """The trials of one command."""

    def __init__(self, command: Command, place: Path) -> None:
        self.command, self.place = command, place
        first, self.whole, self.steps = self.unbroken()
        _, second, _ = self.unbroken()
        if first.status not in (0, 3):
            raise SystemExit(f"{command.name}: {first.said}")
        assert self.whole.keys() == second.keys()
        self.volatile = {name for name in second if second[name] != self.whole[name]}
        self.volatile |= {name for name in second if name.endswith(TIMED)}

    def unbroken(self) -> tuple[End, dict[str, bytes], list[str]]:
        """What the command leaves, and its operations."""
        with self.copied() as folder:
            end = run(self.command.words, folder)
            return end, tree(folder), end.done

    @contextlib.contextmanager
    def copied(self) -> Iterator[Path]:
        """A copy of the base, with the same path each time."""
        folder = self.place / HERE
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.command.base, folder, symlinks=True, dirs_exist_ok=True)
        yield folder

    def trial(self, at: int, fault: str) -> str:
        """What is wrong after a fault at the n-th operation; nothing if all is well."""
        with self.copied() as folder:
            if fault == REMOUNTED:
                disks.flush(folder)
            end = run(self.command.words, folder, at, fault)
            if fault == REMOUNTED:
                disks.mend(folder)
            if fault == "kill":
                if end.status != -signal.SIGKILL:
                    return ""  # an operation less than in the unbroken run
            elif end.status not in (0, 3) and not end.line:
                return f"ended with {end.status}: {last(end.said)}"
            return self.judge(folder, end, {"broken": ".lock"}.get(fault, ""))

    def judge(self, folder: Path, before: End, may_stay: str) -> str:
        """The same words again, and what they lead to; a file that broke as it was removed may stay."""
        again = run(self.command.words, folder)
        if self.command.refused and self.command.refused in again.line:
            return ""
        wrong = self.differences(folder, may_stay)
        if wrong and again.line and (found := NAMED.search(again.line)):
            again = run(found[1].split(), folder)
            wrong = self.differences(folder, may_stay)
        if again.status not in (0, 3) and not again.line:
            return f"again: {again.status}: {last(again.said)}"
        return wrong and f"{wrong}; first: {last(before.said)}; again: {last(again.said)}"

    def differences(self, folder: Path, may_stay: str) -> str:
        """How a folder differs from what an unbroken run leaves; nothing if it does not."""
        here = tree(folder)
        gone, left = self.whole.keys() - here.keys(), here.keys() - self.whole.keys()
        left = {name for name in left if not (may_stay and name.endswith(may_stay))}
        other = {
            name
            for name in self.whole.keys() & here.keys()
            if self.whole[name] != here[name] and name not in self.volatile
        }
        found = {"missing": gone, "left": left, "other": other}
        return ", ".join(f"{what} {sorted(names)[:4]}" for what, names in found.items() if names)


def last(said: str) -> str:
    """The last line of what was said."""
    return (said.strip().splitlines() or ["(nothing)"])[-1][:300]


def chosen(steps: list[str], every: int, short: bool, most: int) -> list[int]:
    """The operations to try, counted from 1: every k-th, or of each kind the first; evenly `most`."""
    numbers = list(range(1, len(steps) + 1, every)) if not short else first_of_each(steps)
    places = {round(n * (len(numbers) - 1) / max(1, most - 1)) for n in range(most)}
    return [numbers[place] for place in sorted(places)] if most else numbers


def first_of_each(steps: list[str]) -> list[int]:
    """The first operation of each kind, counted from 1."""
    seen: dict[str, int] = {}
    for number, step in enumerate(steps, 1):
        what, _, name = step.partition(" ")
        seen.setdefault(f"{what} {name.split('/')[0]}", number)
    return sorted(seen.values())


# ---------------------------------------------------------------- what is tried


def preload(folder: Path) -> None:
    """Import all that the children use."""
    import fastai.vision.learner  # noqa: F401
    import onnxruntime  # noqa: F401
    import pandas  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch

    import histo.commands.check
    import histo.commands.compare
    import histo.commands.demo
    import histo.commands.evaluate
    import histo.commands.export
    import histo.commands.features
    import histo.commands.import_pcam
    import histo.commands.interpret
    import histo.commands.merge
    import histo.commands.predict
    import histo.commands.review
    import histo.commands.train
    import histo.data.loaders
    import histo.model.bundle
    import histo.model.predictor
    import histo.report.figures
    import histo.report.plots
    import histo.training.folds
    import histo.training.logistic
    import histo.training.probe
    import histo.training.recipe
    import histo.training.single

    torch.set_num_threads(1)  # no threads before a fork
    small = {"patches": 60, "epochs": 1, "arch": "squeezenet1_1"}
    histo.commands.demo.demo.__kwdefaults__ |= small  # its command has no options for them
    drawn = {"roc", "confusion_matrix"}  # drawing takes long; all are written by the same lines
    figures = histo.report.figures
    figures.FIGURES = tuple(each for each in figures.FIGURES if each.name in drawn)
    losses = dict.fromkeys(("epoch", "roc_auc", "accuracy", "train_loss", "valid_loss"), 1.0)
    histo.report.plots.draw_learning_curve(folder / "warm", [losses])


class Converted(Exception):  # noqa: N818
    """Ends an export once the model is converted."""


def keep_conversion(run_folder: Path) -> None:
    """Convert the model to ONNX once, in this process, for all children: it takes seconds.

    Not before children have trained: autograd's threads do not survive a fork.
    """
    import torch

    from histo.model import bundle

    convert, engine, kept = torch.onnx.export, bundle.OnnxEngine, list[Any]()

    def first(*given: Any, **named: Any) -> Any:
        kept.append(convert(*given, **named))
        return kept[0]

    def stop(*_: Any) -> Any:
        raise Converted

    torch.onnx.export, bundle.OnnxEngine = first, stop  # type: ignore[assignment,misc]
    with contextlib.suppress(Converted), contextlib.redirect_stdout(io.StringIO()):
        app(["export", str(run_folder), "--out", f"{run_folder}.x"], standalone_mode=False)
    torch.onnx.export, bundle.OnnxEngine = lambda *_, **__: kept[0], engine  # type: ignore[misc]


def must(words: list[str], folder: Path, status: int = 0) -> None:
    """A command line that prepares a base."""
    end = run(words, folder)
    assert end.status == status, f"{words}: {end.said}"


def prepare(folder: Path) -> list[Command]:
    """The bases and the commands that are tried on them."""
    quiet, base = Screen(quiet=True), {}
    for name in ("data", "run", "cut", "bundle", "parts", "joined", "h5", "checked", "none"):
        base[name] = folder / f"base-{name}"
        base[name].mkdir(parents=True)
    write_dataset(base["data"] / "data", 48, 5, quiet, side=48)
    write_dataset(base["data"] / "data", 12, 6, quiet, side=48, labels=False)
    data = base["data"] / "data"
    (data / "test" / "broken.tif").write_bytes(b"II*\0")
    train = ["train", "data", "--out", "run", *TRAIN]
    fill(base["run"], data=data)
    must(train, base["run"])
    fill(base["cut"], data=data)
    cut_training(train, base["cut"])
    fill(base["bundle"], data=data)
    write_tiles(base["bundle"])
    run_folder = base["run"] / "run"
    must(["export", str(run_folder), "--out", "bundle"], base["bundle"])
    share = ["predict", "bundle", "data/test", "--out", "p.csv", "--skip-bad", "--shard"]
    judged = ["evaluate", "bundle", "data", "--out", "judged", "--shard"]
    for name, words in (("parts", share), ("joined", judged)):
        fill(base[name], data=data, bundle=base["bundle"] / "bundle")
        for number in "12":
            must([*words, f"{number}/2"], base[name])
    check = ["check", "data", "--out", "checked", "--write-exclusions", "exclude.csv"]
    fill(base["checked"], data=data)
    run(check, base["checked"])
    write_h5(base["h5"] / "h5")
    again = folder / "base-again"
    shutil.copytree(base["run"], again)
    for verb in ("interpret", "export", "review"):
        must([verb, "run"], again)
    predict = ["predict", "bundle", "data/test", "--out", "p.csv", "--submission", "s.csv"]
    features = ["features", "bundle"]
    return [
        Command("train", train, base["data"]),
        Command("train --resume", ["train", "--resume", "run"], base["cut"]),
        Command("train --folds", [*train, "--folds", "2"], base["data"]),
        Command("train --probe", [*PROBE, "--views", "2"], base["data"]),
        Command(
            "features", [*features, "data/test", "--out", "f.h5", "--skip-bad"], base["bundle"]
        ),
        Command(
            "features to parquet", [*features, "data/train", "--out", "f.parquet"], base["bundle"]
        ),
        Command("features by slide", [*features, "tiles.csv", "--out", "slides"], base["bundle"]),
        Command("export", ["export", "run", "--out", "bundle"], base["run"]),
        Command("export again", ["export", "run"], again),
        Command("interpret", ["interpret", "run"], base["run"]),
        Command("interpret again", ["interpret", "run"], again),
        Command("review", ["review", "run"], base["run"]),
        Command("review again", ["review", "run"], again),
        Command("evaluate", ["evaluate", "bundle", "data", "--out", "judged"], base["bundle"]),
        Command("evaluate into runs", ["evaluate", "bundle", "data"], base["bundle"]),
        Command("predict", [*predict, "--skip-bad", "--force"], base["bundle"]),
        Command("merge", ["merge", ".", "--submission", "s.csv", "--force"], base["parts"]),
        Command("merge of evaluate", ["merge", "."], base["joined"]),
        Command("check", check, base["data"]),
        Command("check again", check, base["checked"]),
        Command("compare", ["compare", "run", "run", "--out", "c.json", "--force"], base["run"]),
        Command("import-pcam", ["import-pcam", "h5", "made"], base["h5"]),
        Command(
            "import-pcam --groups-only", ["import-pcam", "h5", "m", "--groups-only"], base["h5"]
        ),
        Command("demo", ["demo", "d"], base["none"], "d exists and is not empty (give another"),
    ]


def write_tiles(folder: Path) -> None:
    """A table of patches of two slides, as histo cut writes it."""
    rows = ["id,slide,x,y,width,height"]
    for number, patch in enumerate(sorted((folder / "data" / "train").iterdir())):
        rows.append(f"{patch.stem},S{number % 2},{48 * number},0,48,48")
    (folder / "tiles.csv").write_text("\n".join([*rows, ""]))


def fill(folder: Path, **parts: Path) -> None:
    """Copy folders into a base, each under its name."""
    for name, path in parts.items():
        shutil.copytree(path, folder / name)


def cut_training(train: list[str], folder: Path) -> None:
    """Train, killed between the weights and the predictions of the second epoch."""
    steps = Walk(Command("train", train, folder), folder.parent / "cut").steps
    named = [n for n, step in enumerate(steps, 1) if step.startswith("os.rename run/.predictions")]
    end = run(train, folder, named[-1], "kill")
    assert end.status == -signal.SIGKILL


def write_h5(folder: Path) -> None:
    """PatchCamelyon's files, with a few patches."""
    from tests.commands.test_import_pcam import draw, write_pcam

    for number, split in enumerate(("train", "valid", "test")):
        write_pcam(folder, split, draw(8, number))


def walked(
    command: Command, place: Path, faults: Mapping[str, int], every: int, short: bool, most: int
) -> int:
    """Try a command; a line with what was tried, one for each that fell; how many fell."""
    begun = time.monotonic()
    walk = Walk(command, place)
    numbers, fell = chosen(walk.steps, every, short, most), 0
    for fault in faults:
        for number in numbers:
            if wrong := walk.trial(number, fault):
                fell += 1
                print(f"  {command.name}: {fault} at {number}, {walk.steps[number - 1]}: {wrong}")
    tried = ", ".join(f"{len(numbers)} {fault}" for fault in faults)
    seconds = time.monotonic() - begun
    print(f"{command.name}: {len(walk.steps)} operations; {tried}; {fell} fell; {seconds:.0f} s")
    sys.stdout.flush()
    return fell


def asked_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """What a command line asks for; its folder is made anew, with the cache of the children in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commands", default="", help="their names, with commas; all by default")
    unasked = [name for name in FAULTS if name != REMOUNTED]
    parser.add_argument("--faults", default=",".join(unasked))
    parser.add_argument("--every", type=int, default=1, help="try every k-th operation")
    parser.add_argument("--short", action="store_true", help="the first operation of each kind")
    parser.add_argument("--most", type=int, default=0, help="try so many, evenly drawn")
    asked = parser.parse_args(arguments)
    asked.folder = folder = asked.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("cache", "tmp"):
        (folder / name).mkdir(parents=True)
    os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), TMPDIR=str(folder / "tmp"))
    return asked


@contextlib.contextmanager
def disk_at(place: Path) -> Iterator[None]:
    """A disk of its own for the trials."""
    if why := disks.why_not() or disks.mount(place):
        raise SystemExit(why)
    try:
        yield
    finally:
        disks.unmount(place)


def walk_all(
    asked: argparse.Namespace, commands: list[Command], before: Callable[[Command], None]
) -> None:
    """Walk the commands that were asked for, and exit: with 1 where something fell."""
    names = asked.commands.split(",") if asked.commands else [each.name for each in commands]
    faults = {name: FAULTS[name] for name in asked.faults.split(",")}
    fell, place = 0, asked.folder / "walk"
    with disk_at(place / HERE) if REMOUNTED in faults else contextlib.nullcontext():
        for command in commands:
            if command.name in names:
                before(command)
                fell += walked(command, place, faults, asked.every, asked.short, asked.most)
    if ABORTED:
        print(f"{len(ABORTED)} children begun again that torch had aborted")
    sys.exit(fell > 0)


def main() -> None:
    """Parse, prepare, walk."""
    asked = asked_of()
    preload(asked.folder)
    commands = prepare(asked.folder)
    converted = False

    def before(command: Command) -> None:
        nonlocal converted
        if command.words[0] == "export" and not converted:
            keep_conversion(asked.folder / "base-run" / "run")
            converted = True

    walk_all(asked, commands, before)


if __name__ == "__main__":
    main()
