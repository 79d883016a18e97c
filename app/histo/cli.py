"""The commands, and the one place where an error becomes a line on stderr."""

from __future__ import annotations

import errno
import os
import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from histo import __version__
from histo.config import PREDICT_BATCH, CheckConfig, DataConfig, TrainConfig, Wanted
from histo.distributed import ranks
from histo.errors import HistoError, Spell, Stopped
from histo.screen import Screen, counted
from histo.shards.parts import Part, gather
from histo.shards.shard import Shard, whole_path

NO_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class Group(TyperGroup):
    """Turns an expected problem into one line on stderr and its exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a bug still is a traceback."""
        try:
            return super().invoke(ctx)
        except HistoError as error:
            who = f" (process {ranks.rank()} of {ranks.world_size()})" if ranks.rank() else ""
            if not error.said_elsewhere:
                typer.echo(f"error{who}: {error.line(self.speller(ctx))}", err=True)
            status = error.exit_status
        except OSError as error:
            if error.errno not in NO_WRITE:
                raise
            place = f": {error.filename}" if error.filename else ""
            typer.echo(f"error: {error.strerror or error}{place}", err=True)
            status = 1
        except KeyboardInterrupt:
            typer.echo("error: stopped", err=True)
            status = Stopped.exit_status
        raise typer.Exit(status)

    def speller(self, ctx: Any) -> Spell:
        """How the command that was called spells its settings: as options."""
        command = self.commands.get(ctx.invoked_subcommand or "")
        options = {p.name: p.opts[0] for p in command.params} if command else {}
        return lambda setting: options.get(setting)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: in half the time, and [default: …] is not markup
    pretty_exceptions_show_locals=False,
    help="From a label CSV and a folder of histology patches to a judged, portable classifier. "
    "A research tool, not a medical device.",
)


def main() -> None:
    """The `histo` program."""
    # what fastai calls of torch and torch means to drop one day is not for histo's users to mend
    warnings.simplefilter("ignore", FutureWarning)
    if (
        ranks.world_size() > 1
    ):  # PyTorch warns of a lost socket with pages of frames; histo has a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    app()


class Augment(str, Enum):
    """How training patches are varied."""

    none = "none"
    d4 = "d4"
    stain = "stain"


class Precision(str, Enum):
    """The number format of training."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


Data = Annotated[Path, typer.Argument(help="Folder with train_labels.csv and train/*.tif.")]
LabelsFile = Annotated[
    Optional[Path], typer.Option(help="The label CSV.  [default: DATA/train_labels.csv]")
]
Images = Annotated[Optional[Path], typer.Option(help="The patches.  [default: DATA/train]")]
IdColumn = Annotated[str, typer.Option(help="Column of file names, with or without suffix.")]
LabelColumn = Annotated[str, typer.Option(help="Column of labels: numbers or names.")]
Crop = Annotated[Optional[int], typer.Option(min=8, help="Cut the centre N px first.")]
Size = Annotated[Optional[int], typer.Option(min=8, help="Then resize to N px.")]
StoreFolder = Annotated[
    Optional[Path],
    typer.Option(help="Keeps decoded patches.  [default: DATA/.histo or the user's cache]"),
]
Groups = Annotated[
    Optional[str], typer.Option(help="CSV[:COLUMN] that names each patch's slide or patient.")
]
SplitColumn = Annotated[Optional[str], typer.Option(help="Column that says train or valid.")]
Sensitivity = Annotated[
    Optional[float], typer.Option(min=0, max=1, help="Find the threshold that reaches it.")
]
Specificity = Annotated[
    Optional[float], typer.Option(min=0, max=1, help="Find the threshold that reaches it.")
]
ShardOption = Annotated[
    Optional[str],
    typer.Option(
        "--shard", metavar="I/N", help="Only share I of N, counted from 1; then histo merge."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"histo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """What holds for every command."""


@app.command()
def check(
    data: Data,
    out: Annotated[Path, typer.Option(help="The report and its CSVs.")] = CheckConfig.out,
    labels: LabelsFile = None,
    images: Images = None,
    id_column: IdColumn = DataConfig.id_column,
    label_column: LabelColumn = DataConfig.label_column,
    split_column: SplitColumn = None,
    groups: Groups = None,
    write_exclusions: Annotated[
        Optional[Path], typer.Option(help="Write ids to leave out: for train --exclude.")
    ] = None,
    crop: Crop = None,
    size: Size = None,
    store: StoreFolder = None,
) -> None:
    """Read every label and every patch, and say what is wrong with them."""
    from histo.commands.check import check as run

    where = (data, labels, images, id_column, label_column, crop, size, store)
    done = run(CheckConfig(*where, out, split_column, groups, write_exclusions), Screen())
    typer.echo(f"report: {done.page}")
    if done.fatal:
        way = (
            f" (histo train --exclude {write_exclusions} leaves those named out)"
            if write_exclusions
            else ""
        )
        raise HistoError(f"{data}: training would fail, see above{way}")
    typer.echo(
        f"{data} is ready to train on" + (f" ({counted(done.notes, 'note')})" * bool(done.notes))
    )


@app.command()
def train(
    ctx: typer.Context,
    data: Annotated[
        Optional[Path], typer.Argument(help="Folder with train_labels.csv and train/*.tif.")
    ] = None,
    resume: Annotated[
        Optional[Path], typer.Option(help="Go on with this run instead of starting one.")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="The run folder.  [default: runs/ARCH-N]")
    ] = None,
    labels: LabelsFile = None,
    images: Images = None,
    id_column: IdColumn = DataConfig.id_column,
    label_column: LabelColumn = DataConfig.label_column,
    split_column: SplitColumn = None,
    groups: Annotated[
        Optional[str],
        typer.Option(help="CSV[:COLUMN] of slides or patients: none is on both sides."),
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Train on a given split though it leaks.")
    ] = False,
    exclude: Annotated[Optional[Path], typer.Option(help="CSV of ids to leave out.")] = None,
    valid_pct: Annotated[
        float, typer.Option(min=1, max=90, help="Per cent of the patches that validate.")
    ] = TrainConfig.valid_pct,
    folds: Annotated[
        Optional[int],
        typer.Option(min=2, max=100, help="Train N models, each validated on another part."),
    ] = None,
    crop: Crop = None,
    size: Size = None,
    augment: Annotated[
        Augment, typer.Option(help="d4: flips and quarter turns; stain: and colour.")
    ] = Augment(TrainConfig.augment),
    arch: Annotated[
        str, typer.Option(help="A torchvision classifier, or a timm name where timm is.")
    ] = TrainConfig.arch,
    weights: Annotated[
        str, typer.Option(help="imagenet (a download), none, or a .safetensors or .pth file.")
    ] = TrainConfig.weights,
    epochs: Annotated[
        int, typer.Option(min=1, help="Epochs of the whole model.")
    ] = TrainConfig.epochs,
    freeze_epochs: Annotated[
        Optional[int],
        typer.Option(min=0, help="Epochs of the head before.  [default: 1, without weights 0]"),
    ] = None,
    lr: Annotated[
        Optional[str],
        typer.Option(help="Peak learning rate, or find.  [default: by architecture]"),
    ] = None,
    batch_size: Annotated[
        Optional[int], typer.Option(min=1, help="[default: 32 on a CPU, 256 on a GPU]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = TrainConfig.seed,
    device: Device = TrainConfig.device,
    precision: Annotated[
        Precision, typer.Option(help="auto: bf16 on GPUs that have it, else fp32.")
    ] = Precision(TrainConfig.precision),
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model: slow to start, for long runs.")
    ] = False,
    store: StoreFolder = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Decode into memory, keep nothing.")
    ] = False,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes between checkpoints within an epoch.")
    ] = TrainConfig.checkpoint_minutes,
    devices: Annotated[
        Optional[int],
        typer.Option(min=1, help="Train on N GPUs of this machine, or in N processes on a CPU."),
    ] = None,
) -> None:
    """Train a classifier: a run folder with model, history and validation predictions."""
    from histo.commands.train import resume as go_on
    from histo.commands.train import train as run

    if devices and devices > 1 and ranks.world_size() == 1:
        from histo.distributed.launch import launch

        raise typer.Exit(launch(devices, device))
    others = ("resume", "devices")
    settings = {k: getattr(v, "value", v) for k, v in ctx.params.items() if k not in others}
    given = frozenset(
        k for k in settings if getattr(ctx.get_parameter_source(k), "name", "") == "COMMANDLINE"
    )
    if data is None and resume is None:
        raise typer.BadParameter("give DATA, the folder to train on, or --resume RUN")
    config = TrainConfig(**{**settings, "data": data or Path()}, given=given)
    screen = Screen()
    done = go_on(resume, config, screen) if resume else run(config, screen)
    screen.say(f"run: {done.path} (next: histo interpret {done.path})")


@app.command()
def interpret(
    run: Annotated[Path, typer.Argument(help="A run folder, or a predictions CSV.")],
    out: Annotated[Optional[Path], typer.Option(help="[default: RUN/report]")] = None,
    images: Annotated[Optional[Path], typer.Option(help="The patches, if they have moved.")] = None,
    groups: Groups = None,
    sensitivity: Sensitivity = None,
    specificity: Specificity = None,
    centre: Annotated[
        Optional[int],
        typer.Option(
            min=0,
            help="Side in px of the centre that labels speak of, 0 for none. "
            "[default: 32 for patches of 64 to 96 px as they are]",
        ),
    ] = None,
) -> None:
    """Draw ROC, confusion matrix and the rest of the report of a run."""
    from histo.commands.interpret import interpret as judge

    wanted = operating_point(sensitivity, specificity)
    folder, _ = judge(run, out, images, Screen(), groups, wanted, centre)
    typer.echo(f"report: {folder / 'report.html'}")


def operating_point(sensitivity: float | None, specificity: float | None) -> Wanted | None:
    """The rate that a threshold shall reach, where one was asked for."""
    if sensitivity is None and specificity is None:
        return None
    if sensitivity is not None and specificity is not None:
        raise typer.BadParameter("give --sensitivity or --specificity, not both")
    if sensitivity is not None:
        return Wanted("sensitivity", sensitivity)
    return Wanted("specificity", specificity or 0.0)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Optional[Path], typer.Option(help="[default: RUN/export]")] = None,
    sensitivity: Sensitivity = None,
    specificity: Specificity = None,
    no_pickle: Annotated[
        bool, typer.Option("--no-pickle", help="Leave learner.pkl, fastai's own, out.")
    ] = False,
) -> None:
    """Write the bundle of a run: weights, a JSON card, and fastai's own learner."""
    from histo.commands.export import export as write

    folder = write(run, out, Screen(), operating_point(sensitivity, specificity), no_pickle)
    typer.echo(f"bundle: {folder} (next: histo predict {folder} IMAGES)")


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle by histo export.")],
    images: Annotated[Path, typer.Argument(help="A patch, a folder, or a CSV of names.")],
    out: Annotated[Path, typer.Option(help="The table.")] = Path("predictions.csv"),
    submission: Annotated[
        Optional[Path], typer.Option(help="Also write Kaggle's id,label here.")
    ] = None,
    folder: Annotated[
        Optional[Path],
        typer.Option("--images", help="Where a CSV's patches are.  [default: beside it]"),
    ] = None,
    id_column: IdColumn = DataConfig.id_column,
    tta: Annotated[bool, typer.Option("--tta", help="Average the eight D4 views.")] = False,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Load a learner.pkl: runs any code it holds."),
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Probabilities as trained, without the temperature.")
    ] = False,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1)] = PREDICT_BATCH,
    shard: ShardOption = None,
) -> None:
    """Write the probabilities of patches to a CSV."""
    from histo.commands.predict import find_images
    from histo.commands.predict import predict as run

    share, screen = share_of(shard), Screen()
    if share and submission:
        raise typer.BadParameter("one share makes no submission: give --submission to histo merge")
    if trust_pickle and bundle.suffix == ".pkl":
        typer.echo(f"warning: loading {bundle} runs whatever code it holds", err=True)
    count = run(
        bundle,
        find_images(images, folder, id_column),
        out,
        screen,
        submission=submission,
        tta=tta,
        trust_pickle=trust_pickle,
        device=device,
        batch_size=batch_size,
        raw=raw,
        shard=share,
    )
    if share:
        screen.say(part_line(share, out, count))
    else:
        screen.say(f"predictions: {out} ({counted(count, 'patch')})")


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle by histo export.")],
    data: Data,
    out: Annotated[Optional[Path], typer.Option(help="[default: runs/evaluate-N]")] = None,
    labels: LabelsFile = None,
    images: Images = None,
    id_column: IdColumn = DataConfig.id_column,
    label_column: LabelColumn = DataConfig.label_column,
    groups: Groups = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average the eight D4 views.")] = False,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1)] = PREDICT_BATCH,
    shard: ShardOption = None,
) -> None:
    """Judge a bundle on labelled patches it never saw."""
    from histo.commands.evaluate import evaluate as run
    from histo.commands.interpret import interpret as judge

    config, screen = DataConfig(data, labels, images, id_column, label_column), Screen()
    done = run(
        bundle,
        config,
        out,
        screen,
        groups=groups,
        tta=tta,
        device=device,
        batch_size=batch_size,
        shard=share_of(shard),
    )
    if isinstance(done, Part):
        screen.say(part_line(done.shard, whole_path(done.path), done.owed))
    elif done is not None:
        folder, _ = judge(done.path, None, None, screen)
        screen.say(f"report: {folder / 'report.html'}")


def share_of(given: str | None) -> Shard | None:
    """The share of `--shard I/N`, where one was asked for."""
    if given is None:
        return None
    if ranks.world_size() > 1:
        raise typer.BadParameter("a launcher's processes divide the work: leave --shard out")
    try:
        return Shard.parse(given)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from None


def part_line(share: Shard, table: Path, count: int) -> str:
    """Where a part is, and what joins it to the others."""
    then = f"when all {share.of} are there: histo merge {share.pattern(table)}"
    return f"part: {share.path(table)} ({counted(count, 'patch')}; {then})"


@app.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help="The parts, or a folder of them.")],
    out: Annotated[
        Optional[Path], typer.Option(help="The table or run.  [default: the parts' own name]")
    ] = None,
    submission: Annotated[
        Optional[Path], typer.Option(help="Also write Kaggle's id,label here.")
    ] = None,
) -> None:
    """Join the parts of predict --shard or evaluate --shard, once all are there."""
    from histo.commands.evaluate import write_run
    from histo.commands.interpret import interpret as judge
    from histo.commands.merge import merge as run

    found = gather(parts)
    rows = found[0].facts.patches
    if found[0].facts.command == "evaluate":
        if submission:
            raise typer.BadParameter("an evaluation makes no submission")
        done = write_run(found, out or whole_path(found[0].path).with_suffix(""))
        folder, _ = judge(done.path, None, None, Screen())
        typer.echo(f"report: {folder / 'report.html'}")
    else:
        typer.echo(f"predictions: {run(found, out, submission)} ({counted(rows, 'patch')})")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A run folder or a predictions CSV: A.")],
    second: Annotated[Path, typer.Argument(help="Another of the same patches: B.")],
    groups: Groups = None,
    out: Annotated[Optional[Path], typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Compare two runs on the same patches, paired, with the interval of the difference."""
    from histo.commands.compare import compare as run

    result = run(first, second, groups, out, Screen())
    low, high = result["difference"]["roc_auc"]["interval"] or (0, 0)
    words = "no difference in AUC is shown" if low <= 0 <= high else "the AUCs differ"
    typer.echo(words + (f" ({out})" if out else ""))


@app.command()
def import_pcam(
    h5dir: Annotated[Path, typer.Argument(help="Folder of PatchCamelyon's .h5 or .h5.gz files.")],
    data: Annotated[Path, typer.Argument(help="A new folder.")],
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep equal patches, as ID-2, ID-3 ….")
    ] = False,
    groups_only: Annotated[
        bool,
        typer.Option("--groups-only", help="Only write DATA/groups.csv, into Kaggle's folder say."),
    ] = False,
) -> None:
    """Turn PatchCamelyon's HDF5 files into a folder in Kaggle's layout, with slide names."""
    from histo.commands.import_pcam import import_pcam as run

    run(h5dir, data, Screen(), keep_duplicates=keep_duplicates, groups_only=groups_only)
    slides = f"--groups {data / 'groups.csv'}"
    if groups_only:
        typer.echo(f"slides: {data / 'groups.csv'} (next: histo train {data} {slides})")
    elif (data / "train").is_dir():
        typer.echo(f"data: {data} (next: histo train {data} --split-column split {slides})")
    else:
        typer.echo(f"data: {data}")


@app.command()
def doctor() -> None:
    """Say what this machine has for histo, and the fix for each thing that is wrong."""
    from histo.commands.doctor import doctor as run

    findings = run(Screen())
    if any(finding.fatal for finding in findings):
        raise HistoError("training cannot work here: see each fix above")
    typer.echo("training can work here")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="A new folder.")] = Path("histo-demo"),
) -> None:
    """Do all of the above on synthetic patches: no data, no network needed."""
    from histo.commands.demo import demo as run

    run(folder, lambda words: app(words, standalone_mode=False), Screen())
