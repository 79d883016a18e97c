"""The commands' options, and the one place where an error becomes a line on stderr."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from histo import __version__
from histo.config import (
    PREDICT_BATCH,
    RANGES,
    Augment,
    CheckConfig,
    CutConfig,
    DataConfig,
    EnginePrecision,
    ExportPrecision,
    Layout,
    Precision,
    Tracker,
    TrainConfig,
)
from histo.distributed import ranks
from histo.distributed.interrupts import end_at_second_interrupt, leave
from histo.errors import BAD_NAME, NO_WRITE, HistoError, LeftOut, Spell, Stopped
from histo.run.folder import RunFolder
from histo.run.predictions import SKIPPED, skipped_path
from histo.screen import Screen, counted
from histo.shards.shard import Shard
from histo.text import REPLACES


class Group(TyperGroup):
    """Turns an expected problem into one line on stderr and its exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a bug still prints a traceback."""
        try:
            return super().invoke(ctx)
        except HistoError as error:
            who = f" (process {ranks.rank()} of {ranks.world_size()})" if ranks.rank() else ""
            if not error.said_elsewhere:
                typer.echo(f"error{who}: {error.line(self.speller(ctx))}", err=True)
            status = error.exit_status
        except OSError as error:
            if error.errno not in (*NO_WRITE, *BAD_NAME):
                raise
            named = error.filename2 or error.filename  # of a rename, the name that it was to get
            place = f": {named}" if named else ""
            typer.echo(f"error: {error.strerror or error}{place}", err=True)
            status = 1
        except KeyboardInterrupt:
            typer.echo("error: stopped", err=True)
            status = Stopped.exit_status
        raise typer.Exit(status)

    def speller(self, ctx: Any) -> Spell:
        """How the command that was called spells its settings: as options."""
        command = self.commands.get(ctx.invoked_subcommand or "")
        return options_of(command) if command else no_options


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: in half the time, and [default: …] is not markup
    pretty_exceptions_show_locals=False,
    help="From a label CSV and a folder of histology patches to an evaluated, portable classifier. "
    "A research tool, not a medical device.",
)


def main() -> None:
    """The `histo` program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is no traceback
            stream.reconfigure(errors=REPLACES)
    # fastai calls functions that torch deprecates, which histo's users cannot change
    warnings.simplefilter("ignore", FutureWarning)
    if ranks.world_size() > 1:  # PyTorch reports a lost socket in pages; histo in one line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    end_at_second_interrupt()
    try:
        app()
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else 1)
        raise


def number(setting: str, help: str | None = None, *names: str) -> Any:
    """An option that is a number, within the range of its setting."""
    low, high = RANGES[setting]
    return typer.Option(*names, min=low, max=high, help=help)


def screen_for(ctx: typer.Context, doing: str = "") -> Screen:
    """The screen of a command: only the first process of a launch prints.

    `doing` is said at once, as the command's imports take seconds.
    """
    screen = Screen(quiet=ranks.rank() > 0, spell=options_of(ctx.command))
    if doing:
        screen.say(doing)
    return screen


def no_options(_setting: str) -> None:
    """Spell no setting, as no command was called."""


def options_of(command: Any) -> Spell:
    """How a command spells its settings."""
    options = {p.name: p.opts[0] for p in command.params if p.opts[0].startswith("--")}
    return options.get


def given(ctx: typer.Context, *left_out: str) -> dict[str, Any]:
    """The settings given on the command line."""
    return {
        name: value
        for name, value in ctx.params.items()
        if name not in left_out
        and getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }


DATA_HELP = "Folder with train_labels.csv and train/*.tif, or with a folder for each class."
Data = Annotated[Path, typer.Argument(help=DATA_HELP)]
Bundle = Annotated[Path, typer.Argument(help="A bundle by histo export.")]
LabelsFile = Annotated[
    Optional[Path], typer.Option(help="The label CSV.  [default: DATA/train_labels.csv]")
]
LabelFrom = Annotated[
    Optional[str],
    typer.Option(help="Labels from folders: level 1, 2 … or a regular expression over the path."),
]
GroupFrom = Annotated[
    Optional[str],
    typer.Option(help="Groups from folders or file names, as --label-from; none: no groups."),
]
Images = Annotated[
    Optional[Path], typer.Option(help="The patches.  [default: DATA/train, or DATA]")
]
IdColumn = Annotated[str, typer.Option(help="Column of file names, with or without suffix.")]
LabelColumn = Annotated[str, typer.Option(help="Column of labels: numbers or names.")]
Crop = Annotated[Optional[int], number("crop", "Crop the centre N px first.")]
Size = Annotated[Optional[int], number("size", "Then resize to N px.")]
StoreFolder = Annotated[
    Optional[Path],
    typer.Option(help="Folder for decoded patches.  [default: DATA/.histo or the user's cache]"),
]
Groups = Annotated[
    Optional[str], typer.Option(help="CSV[:COLUMN] that names each patch's slide or patient.")
]
Corrections = Annotated[
    Optional[Path],
    typer.Option(help="CSV of ids and their right labels, or suspects.csv of histo review."),
]
SplitColumn = Annotated[Optional[str], typer.Option(help="Column that says train or valid.")]
Mpp = Annotated[
    Optional[float], number("mpp", "Micrometres per pixel of the patches, where not recorded.")
]
SlideMpp = Annotated[
    Optional[str],
    typer.Option(help="Micrometres per pixel: X for slides that do not say, or a CSV slide,mpp."),
]
Sensitivity = Annotated[
    Optional[float], number("sensitivity", "Find the threshold that reaches it.")
]
Specificity = Annotated[
    Optional[float], number("specificity", "Find the threshold that reaches it.")
]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that histo did not write.")]
Positive = Annotated[
    Optional[str],
    typer.Option(help="The positive class of two.  [default: as recorded, or found by the names]"),
]
ShardOption = Annotated[
    Optional[str],
    typer.Option("--shard", metavar="I/N", help="Only share I of N, from 1; then histo merge."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
EngineChoice = Annotated[
    EnginePrecision,
    typer.Option(help="auto: the fastest that the bundle vouches for; fp32: the exact one."),
]
Tta = Annotated[bool, typer.Option("--tta", help="Average the eight D4 views.")]
Submission = Annotated[
    Optional[Path], typer.Option(help="Also write Kaggle's id,label to this file.")
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Leave out patches that cannot be used, and list them: exit status 3."
    ),
]
PredictBatch = Annotated[int, number("batch_size", "Patches predicted at once.")]


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"histo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def check(
    ctx: typer.Context,
    data: Data,
    out: Annotated[
        Path, typer.Option(help="Folder for the report and its CSVs.")
    ] = CheckConfig.out,
    labels: LabelsFile = None,
    images: Images = None,
    id_column: IdColumn = DataConfig.id_column,
    label_column: LabelColumn = DataConfig.label_column,
    label_from: LabelFrom = None,
    group_from: GroupFrom = None,
    split_column: SplitColumn = None,
    groups: Groups = None,
    corrections: Corrections = None,
    write_exclusions: Annotated[
        Optional[Path], typer.Option(help="Write the ids to leave out, for train --exclude.")
    ] = None,
    crop: Crop = None,
    size: Size = None,
    store: StoreFolder = None,
    force: Force = False,
) -> None:
    """Read every label and every patch, and report what is wrong with them."""
    screen = screen_for(ctx, f"checking {data}")
    from histo.commands.check import check as run

    result = run(**ctx.params, progress=screen)
    if not result.ready:
        ways = [f"histo train --exclude {write_exclusions} leaves those named out"]
        if not write_exclusions:
            bad = {finding.name for finding in result.findings if finding.fatal}
            leave = "histo train --skip-bad leaves those patches out"
            ways = [leave] if bad <= {"odd_sizes", "unreadable"} else []
        raise HistoError(f"{data}: training would fail, see above", *ways)


@app.command()
def train(
    ctx: typer.Context,
    data: Annotated[Optional[Path], typer.Argument(help=DATA_HELP)] = None,
    resume: Annotated[
        Optional[Path], typer.Option(help="Resume this run instead of starting a new one.")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="The run folder.  [default: runs/ARCH-N]")
    ] = None,
    labels: LabelsFile = None,
    images: Images = None,
    id_column: IdColumn = DataConfig.id_column,
    label_column: LabelColumn = DataConfig.label_column,
    label_from: LabelFrom = None,
    group_from: GroupFrom = None,
    split_column: SplitColumn = None,
    groups: Annotated[
        Optional[str],
        typer.Option(help="CSV[:COLUMN] of slides or patients, each kept on one side."),
    ] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Train even if the given split leaks.")
    ] = False,
    exclude: Annotated[Optional[Path], typer.Option(help="CSV of ids to leave out.")] = None,
    positive: Positive = None,
    mpp: Mpp = None,
    skip_bad: SkipBad = False,
    corrections: Corrections = None,
    valid_pct: Annotated[
        float, number("valid_pct", "Per cent of the patches kept for validation.")
    ] = TrainConfig.valid_pct,
    folds: Annotated[Optional[int], number("folds", "Cross-validate: train N models.")] = None,
    crop: Crop = None,
    size: Size = None,
    augment: Annotated[
        Augment, typer.Option(help="d4: flips and quarter turns; stain: also colour.")
    ] = TrainConfig.augment,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Freeze the body and fit a linear head to its features."),
    ] = False,
    views: Annotated[
        Optional[int],
        number(
            "views",
            "With --probe: D4 views of each training patch.  [default: 1; 2 to 8 for 2,000 of them or fewer]",
        ),
    ] = None,
    arch: Annotated[
        str,
        typer.Option(
            help="A torchvision classifier or, if timm is installed, a timm or foundation model "
            "(uni2-h, virchow2 …). On a CPU: tf_efficientnet_lite0 (timm), or squeezenet1_1, the "
            "fastest."
        ),
    ] = TrainConfig.arch,
    weights: Annotated[
        str, typer.Option(help="imagenet (downloaded), none, or a .safetensors or .pth file.")
    ] = TrainConfig.weights,
    epochs: Annotated[
        Optional[int],
        number(
            "epochs",
            "Epochs of the whole model.  [default: 8; 14 for fewer than 10,000 training patches]",
        ),
    ] = None,
    freeze_epochs: Annotated[
        Optional[int],
        number(
            "freeze_epochs",
            "Epochs of the head alone, first.  [default: 1; 0 without weights or for tf_efficientnet_lite…]",
        ),
    ] = None,
    lr: Annotated[
        Optional[str],
        typer.Option(help="Peak learning rate, or find.  [default: by architecture]"),
    ] = None,
    batch_size: Annotated[
        Optional[int], number("batch_size", "[default: 32 on a CPU, 256 on a GPU]")
    ] = None,
    seed: Annotated[int, number("seed")] = TrainConfig.seed,
    device: Device = TrainConfig.device,
    precision: Annotated[
        Precision,
        typer.Option(help="auto: bf16 or fp16 on a GPU, bf16 on a CPU where faster, else fp32."),
    ] = TrainConfig.precision,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model: slow to start, for long runs.")
    ] = False,
    store: StoreFolder = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Keep decoded patches in memory only.")
    ] = False,
    checkpoint_minutes: Annotated[
        float, number("checkpoint_minutes", "Minutes between checkpoints within an epoch.")
    ] = TrainConfig.checkpoint_minutes,
    tracker: Annotated[
        Optional[Tracker], typer.Option(help="Also log settings, epochs and results there.")
    ] = None,
    devices: Annotated[
        Optional[int],
        number("devices", "Train on N GPUs of this machine, or in N processes on a CPU."),
    ] = None,
) -> None:
    """Train a classifier: a run folder with model, history and validation predictions."""
    if devices and devices > 1 and ranks.world_size() == 1:
        from histo.distributed.launch import launch

        raise typer.Exit(launch(devices, device))
    if data is None and resume is None:
        raise typer.BadParameter("give DATA, the folder to train on, or --resume RUN")

    screen = screen_for(ctx, f"training on {data}" if resume is None else f"resuming {resume}")
    from histo.commands.train import train as run

    done = run(resume=resume, progress=screen, **given(ctx, "resume", "devices"))
    say_left_out(done.path / SKIPPED)


@app.command()
def interpret(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder, or a predictions CSV.")],
    out: Annotated[Optional[Path], typer.Option(help="[default: RUN/report]")] = None,
    images: Annotated[Optional[Path], typer.Option(help="The patches, if they have moved.")] = None,
    groups: Groups = None,
    sensitivity: Sensitivity = None,
    specificity: Specificity = None,
    centre: Annotated[
        Optional[int],
        number(
            "centre",
            "Side in px of the centre that decides a label, 0 for none. "
            "[default: 32 for patches of 64 to 96 px that were not resized]",
        ),
    ] = None,
    positive: Positive = None,
    tracker: Annotated[
        Optional[Tracker],
        typer.Option(help="Send the figures to the tracker that the run was trained with."),
    ] = None,
) -> None:
    """Draw ROC, confusion matrix and the rest of the report of a run."""
    refuse_both(sensitivity, specificity)
    screen = screen_for(ctx, f"interpreting {run}")
    from histo.commands.interpret import interpret as report

    report(**ctx.params, progress=screen)


@app.command()
def review(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder, best of histo train --folds.")],
    out: Annotated[Optional[Path], typer.Option(help="[default: RUN/review]")] = None,
    images: Annotated[Optional[Path], typer.Option(help="The patches, if they have moved.")] = None,
    most: Annotated[
        Optional[int], number("most", "Keep only the N most suspicious.  [default: all]")
    ] = None,
) -> None:
    """List the labels that are probably wrong, as a CSV to correct and a page of the patches."""
    screen = screen_for(ctx, f"reviewing the labels of {run}")
    from histo.commands.review import review as write

    write(**ctx.params, progress=screen)


def refuse_both(sensitivity: float | None, specificity: float | None) -> None:
    """Refuse both rates at once: one threshold reaches only one of them."""
    if sensitivity is not None and specificity is not None:
        raise typer.BadParameter("give --sensitivity or --specificity, not both")


@app.command()
def export(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Optional[Path], typer.Option(help="[default: RUN/export]")] = None,
    sensitivity: Sensitivity = None,
    specificity: Specificity = None,
    no_pickle: Annotated[
        bool, typer.Option("--no-pickle", help="Do not write learner.pkl, fastai's own format.")
    ] = False,
    no_fingerprint: Annotated[
        bool,
        typer.Option(
            "--no-fingerprint", help="Leave out the hashes that tell what it was trained on."
        ),
    ] = False,
    positive: Positive = None,
    qupath: Annotated[
        bool, typer.Option("--qupath", help="Also write the model for QuPath's WSInfer extension.")
    ] = False,
    mpp: Mpp = None,
    images: Annotated[Optional[Path], typer.Option(help="The patches, if they have moved.")] = None,
    precision: Annotated[
        ExportPrecision,
        typer.Option(help="auto: try int8 and bf16 too, keep what is as good; fp32: skip that."),
    ] = "auto",
) -> None:
    """Write the bundle of a run: weights, a JSON card, and fastai's own learner."""
    refuse_both(sensitivity, specificity)
    screen = screen_for(ctx)
    from histo.commands.export import export as write

    write(**ctx.params, progress=screen)


@app.command()
def predict(
    ctx: typer.Context,
    bundle: Bundle,
    patches: Annotated[list[Path], typer.Argument(help="Patches, folders, or a CSV of names.")],
    out: Annotated[Path, typer.Option(help="The table.")] = Path("predictions.csv"),
    submission: Submission = None,
    images: Annotated[
        Optional[Path], typer.Option(help="Where a CSV's patches are.  [default: beside it]")
    ] = None,
    id_column: IdColumn = DataConfig.id_column,
    tta: Tta = False,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Load a learner.pkl, which runs any code in it."),
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Probabilities as trained, without the temperature.")
    ] = False,
    device: Device = "auto",
    precision: EngineChoice = "auto",
    batch_size: PredictBatch = PREDICT_BATCH,
    positive: Positive = None,
    skip_bad: SkipBad = False,
    shard: ShardOption = None,
    force: Force = False,
) -> None:
    """Write the probabilities of patches to a CSV."""
    share = share_of(shard)
    if share and submission:
        raise typer.BadParameter("a share has no submission: give --submission to histo merge")
    if trust_pickle and bundle.suffix == ".pkl":
        typer.echo(f"warning: loading {bundle} runs whatever code it holds", err=True)
    screen = screen_for(ctx, f"predicting with {bundle}")
    from histo.commands.predict import predict_to

    if predict_to(**{**ctx.params, "shard": share}, screen=screen):
        say_left_out(skipped_path(out))


@app.command()
def evaluate(
    ctx: typer.Context,
    bundle: Bundle,
    data: Data,
    out: Annotated[Optional[Path], typer.Option(help="[default: runs/evaluate-N]")] = None,
    labels: LabelsFile = None,
    images: Images = None,
    id_column: IdColumn = DataConfig.id_column,
    label_column: LabelColumn = DataConfig.label_column,
    label_from: LabelFrom = None,
    group_from: GroupFrom = None,
    groups: Groups = None,
    tta: Tta = False,
    device: Device = "auto",
    precision: EngineChoice = "auto",
    batch_size: PredictBatch = PREDICT_BATCH,
    positive: Positive = None,
    skip_bad: SkipBad = False,
    annotations: Annotated[
        Optional[Path],
        typer.Option(help="For whole slides: a folder with a GeoJSON, ASAP XML or mask for each."),
    ] = None,
    classes: Annotated[
        Optional[list[str]],
        typer.Option(
            "--class", help="NAME=CLASS: the class of annotations of that name; repeatable."
        ),
    ] = None,
    choose_score: Annotated[
        bool,
        typer.Option("--choose-score", help="Choose on training slides how slides are scored."),
    ] = False,
    score: Annotated[
        Optional[Path], typer.Option(help="The score.json that --choose-score wrote.")
    ] = None,
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
    shard: ShardOption = None,
) -> None:
    """Evaluate a bundle on labelled patches, or whole slides, that it never saw."""
    share = share_of(shard)
    screen = screen_for(ctx, f"evaluating {bundle} on {data}")
    from histo.commands.evaluate import evaluate_to
    from histo.commands.interpret import interpret as report

    def then(run: RunFolder) -> None:
        report(run.path, progress=screen)

    how = {**ctx.params, "shard": share, "classes": tuple(classes or ())}
    done = evaluate_to(**how, screen=screen, then=then)
    if isinstance(done, Path):
        say_slides_left_out(done)
    elif done is not None:
        say_left_out(done.path / SKIPPED)


def say_slides_left_out(judged: Path) -> None:
    """Exit status 3 where slides that were to be judged could not be mapped."""
    from histo.files.writing import read_json

    if left_out := read_json(judged / "slides.json").get("left_out"):
        raise LeftOut(f"done, but without {counted(len(left_out), 'slide')}: see the lines above")


@app.command()
def features(
    ctx: typer.Context,
    body: Annotated[str, typer.Argument(help="A bundle, or the name of an architecture.")],
    patches: Annotated[list[Path], typer.Argument(help="Patches, folders, or a CSV of names.")],
    out: Annotated[
        Path, typer.Option(help="FILE.h5, FILE.parquet, or a folder for a .h5 per slide.")
    ],
    weights: Annotated[
        str, typer.Option(help="imagenet (downloaded), none, or a .safetensors or .pth file.")
    ] = TrainConfig.weights,
    layout: Annotated[
        Layout, typer.Option(help="Layout of HDF5: for CLAM and TRIDENT, or for STAMP.")
    ] = "clam",
    images: Annotated[
        Optional[Path], typer.Option(help="Where a CSV's patches are.  [default: beside it]")
    ] = None,
    id_column: IdColumn = DataConfig.id_column,
    crop: Crop = None,
    size: Size = None,
    mpp: Mpp = None,
    device: Device = "auto",
    batch_size: PredictBatch = PREDICT_BATCH,
    skip_bad: SkipBad = False,
    force: Force = False,
) -> None:
    """Write the features that a body finds in patches, for other programs."""
    screen = screen_for(ctx, f"features of {', '.join(str(one) for one in patches[:3])}")
    from histo.commands.features import features as run

    run(**ctx.params, progress=screen)
    say_left_out(skipped_path(out if out.suffix else out / "features.csv").with_suffix(".csv"))


@app.command()
def cut(
    ctx: typer.Context,
    slides: Annotated[list[Path], typer.Argument(help="Slides, or folders of them.")],
    annotations: Annotated[
        Path, typer.Option(help="Folder with SLIDE.geojson, SLIDE.xml (ASAP) or a mask SLIDE.png.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the patches.")] = CutConfig.out,
    mpp: Annotated[float, number("mpp", "Micrometres per pixel of the patches.")] = CutConfig.mpp,
    size: Annotated[int, number("size", "Side of the patches in px.")] = CutConfig.size,
    stride: Annotated[
        Optional[int], number("stride", "Step of the patches in px.  [default: no overlap]")
    ] = None,
    classes: Annotated[
        Optional[list[str]],
        typer.Option("--class", help="NAME=CLASS of annotations, others are left out; repeat it."),
    ] = None,
    background: Annotated[
        Optional[str],
        typer.Option(help="Class of tissue outside annotations.  [default: left out]"),
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Write tissue outside annotations to unlabelled/.")
    ] = False,
    normal_slides: Annotated[
        bool,
        typer.Option("--normal-slides", help="Slides without annotations are all background."),
    ] = False,
    cover: Annotated[
        str,
        typer.Option(help="Share of a patch that its class covers, or centre: any of its third."),
    ] = CutConfig.cover,
    tissue: Annotated[
        Optional[Path], typer.Option(help="Folder of corrected tissue outlines, a GeoJSON a slide.")
    ] = None,
    no_tissue: Annotated[
        bool, typer.Option("--no-tissue", help="Take patches without tissue too.")
    ] = False,
    no_files: Annotated[
        bool,
        typer.Option("--no-files", help="One ZIP file for each slide, not a file for each patch."),
    ] = False,
    per_slide: Annotated[
        Optional[int], number("per_slide", "At most N patches a slide and class, at random.")
    ] = None,
    seed: Annotated[int, number("seed")] = CutConfig.seed,
    patient_from: Annotated[
        Optional[str], typer.Option(help="Regular expression for the patient in a slide's name.")
    ] = None,
    slide_mpp: SlideMpp = None,
) -> None:
    """Cut annotated whole slides into labelled patches, ready for check and train."""
    screen = screen_for(
        ctx, f"cutting {', '.join(str(s) for s in slides[:3])}" + " …" * (len(slides) > 3)
    )
    from histo.commands.cut import cut_to

    settings = {k: v for k, v in ctx.params.items() if k not in ("slides", "annotations")}
    config = CutConfig(**{**settings, "classes": tuple(classes or ())})
    if failed := cut_to(slides, annotations, config, screen):
        raise LeftOut(f"done, but without {counted(failed, 'slide')}: see {out / 'failed.csv'}")


@app.command()
def map(
    ctx: typer.Context,
    bundle: Bundle,
    slides: Annotated[list[Path], typer.Argument(help="Slides, or folders of them.")],
    out: Annotated[Path, typer.Option(help="The folder of the maps.")] = Path("maps"),
    mpp: Mpp = None,
    slide_mpp: SlideMpp = None,
    stride: Annotated[
        Optional[int],
        number("stride", "Step of the tiles in px of the model.  [default: no overlap]"),
    ] = None,
    tta: Tta = False,
    tissue: Annotated[
        Optional[Path], typer.Option(help="Folder of corrected tissue outlines, a GeoJSON a slide.")
    ] = None,
    no_tissue: Annotated[bool, typer.Option("--no-tissue", help="Map the background too.")] = False,
    hdf5: Annotated[
        bool, typer.Option("--hdf5", help="Also write tiles.h5, in CLAM's layout.")
    ] = False,
    positive: Positive = None,
    device: Device = "auto",
    precision: EngineChoice = "auto",
    batch_size: PredictBatch = PREDICT_BATCH,
    shard: ShardOption = None,
) -> None:
    """Lay a bundle over whole slides: heat maps, regions for QuPath, a page for each slide."""
    share = share_of(shard)
    screen = screen_for(ctx, f"mapping with {bundle}")
    from histo.commands.map import map_to

    if failed := map_to(**{**ctx.params, "shard": share}, screen=screen):
        raise LeftOut(f"done, but without {counted(failed, 'slide')}: see the lines above")


def say_left_out(listed: Path) -> None:
    """Exit status 3 where patches were left out."""
    if listed.is_file():
        raise LeftOut(f"done, but without the patches in {listed}")


def share_of(given: str | None) -> Shard | None:
    """The share of `--shard I/N`, if given."""
    if given is None:
        return None
    if ranks.world_size() > 1:
        raise typer.BadParameter("the processes of a launcher share the work: leave --shard out")
    try:
        return Shard.parse(given)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from None


@app.command()
def merge(
    ctx: typer.Context,
    parts: Annotated[list[Path], typer.Argument(help="The parts, or a folder of them.")],
    out: Annotated[
        Optional[Path], typer.Option(help="The table or run.  [default: the parts' own name]")
    ] = None,
    submission: Submission = None,
    positive: Positive = None,
    force: Force = False,
) -> None:
    """Join the parts of predict --shard, evaluate --shard or map --shard, once all are there."""
    screen = screen_for(
        ctx, f"joining {', '.join(str(part) for part in parts[:3])}" + " …" * (len(parts) > 3)
    )
    from histo.commands.interpret import interpret as report
    from histo.commands.merge import merge as join

    done = join(**ctx.params, progress=screen)
    if not isinstance(done, Path):
        report(done.path, progress=screen)
    if isinstance(done, Path) and done.name == "slides.csv":
        say_slides_not_mapped(done)
        return
    say_left_out(skipped_path(done) if isinstance(done, Path) else done.path / SKIPPED)


def say_slides_not_mapped(table: Path) -> None:
    """Exit status 3 where slides.csv names slides that could not be mapped, as of `map` itself."""
    import csv

    with table.open(encoding="utf-8", newline="") as file:
        failed = sum(bool(row["error"]) for row in csv.DictReader(file))
    if failed:
        raise LeftOut(f"done, but without {counted(failed, 'slide')}: see {table}")


@app.command()
def compare(
    ctx: typer.Context,
    first: Annotated[Path, typer.Argument(help="A run folder or a predictions CSV: A.")],
    second: Annotated[Path, typer.Argument(help="Another one, of the same patches: B.")],
    labels: Annotated[
        Optional[Path], typer.Option(help="The label CSV, for tables of histo predict.")
    ] = None,
    id_column: IdColumn = DataConfig.id_column,
    label_column: LabelColumn = DataConfig.label_column,
    groups: Groups = None,
    out: Annotated[Optional[Path], typer.Option(help="Also write the figures as JSON.")] = None,
    positive: Positive = None,
    force: Force = False,
) -> None:
    """Compare two runs on the same patches, paired, with the interval of the difference."""
    screen = screen_for(ctx, "comparing two tables of predictions")
    from histo.commands.compare import compare as run

    run(**ctx.params, progress=screen)


@app.command()
def import_pcam(
    ctx: typer.Context,
    h5dir: Annotated[Path, typer.Argument(help="Folder of PatchCamelyon's .h5 or .h5.gz files.")],
    data: Annotated[Path, typer.Argument(help="A new folder.")],
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep equal patches, as ID-2, ID-3 ….")
    ] = False,
    groups_only: Annotated[
        bool,
        typer.Option("--groups-only", help="Only write DATA/groups.csv, as for Kaggle's folder."),
    ] = False,
) -> None:
    """Turn PatchCamelyon's HDF5 files into a folder in Kaggle's layout, with slide names."""
    screen = screen_for(ctx, f"importing {h5dir}")
    from histo.commands.import_pcam import import_pcam as run

    run(**ctx.params, progress=screen)


@app.command()
def serve(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(help="Folder of runs, bundles, slides and maps.")
    ] = Path(),
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, number("port", "Port to listen at; 0: a free one.")] = 8791,
    allowed_host: Annotated[
        Optional[list[str]],
        typer.Option(help="Name it is reached by, as behind a reverse proxy; repeatable."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    device: Device = "auto",
    precision: EngineChoice = "auto",
    images: Annotated[
        Optional[Path],
        typer.Option(help="The patches of reviews.  [default: as their runs say, in FOLDER]"),
    ] = None,
) -> None:
    """Show a folder's bundles, runs, reviews and slides in a browser, and answer over HTTP."""
    screen = screen_for(ctx)
    from histo.commands.serve import serve as run

    run(**{**ctx.params, "allowed_host": allowed_host or []}, progress=screen)


@app.command()
def doctor(ctx: typer.Context) -> None:
    """Report what this machine has for histo, and the fix for each thing that is wrong."""
    from histo.commands.doctor import doctor as run

    if any(probe.fatal for probe in run(progress=screen_for(ctx))):
        raise HistoError("training cannot work here: see each fix above")
    typer.echo("training can work here")


@app.command()
def demo(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A new folder.")] = Path("histo-demo"),
) -> None:
    """Run all of the above on synthetic patches: needs no data and no network."""
    screen = screen_for(ctx, f"the demo of histo, in {folder}")
    from histo.commands.demo import demo as run

    run(folder, progress=screen)
