"""``hms-tune predict``, ``hms-tune kaggle`` and ``hms-tune blend``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from hms_tune.cli.console import progress_bar
from hms_tune.cli.options import DeviceOption, JsonOption
from hms_tune.cli.views.exported import say_blend
from hms_tune.config.augmentation import TestTime
from hms_tune.errors import UsageError
from hms_tune.machine.stop_signals import ended_as_by_ctrl_c
from hms_tune.machine.terminal import Terminal

if TYPE_CHECKING:
    from hms_tune.export.adjustment import Adjustment


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that export-best wrote.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Competition folder.")],
    *,
    split: Annotated[
        Literal["test", "train"], typer.Option("--split", help="Which half to predict.")
    ] = "test",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the rows go.")] = Path(
        "submission.csv"
    ),
    weights: Annotated[
        Literal["folds", "full"] | None,
        typer.Option("--weights", help="The folds' ensemble, or the network trained on all rows."),
    ] = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Windows at once; the trial's by default.")
    ] = None,
    test_time: Annotated[
        str,
        typer.Option(
            "--test-time",
            metavar="swap,shift",
            help="Average over hemispheres swapped, over the window shifted, or over both.",
        ),
    ] = "",
    temperature: Annotated[
        str,
        typer.Option(
            "--temperature", metavar="NUMBER|fit", help="Above 1: less certain; fit: what suits out of fold."
        ),
    ] = "1",
) -> None:
    """Predict every EEG of one half of a competition folder and write a submission.

    Reads that half alone, prepared or not. Interrupted, it leaves nothing behind. With --test-time or
    --temperature it first says what they do to the KL out of fold.
    """
    from hms_tune.data.store.store import competition_of
    from hms_tune.export.blend import load_bundle
    from hms_tune.export.predict import predict as predict_folder
    from hms_tune.machine.regular_file import check_writable

    check_writable(out, named_by="--out")
    model = load_bundle(bundle, device=device, weights=weights)
    change = _adjustment(bundle, _changes(test_time), temperature)

    with ended_as_by_ctrl_c(), progress_bar("predicting", "windows") as progress:
        written = predict_folder(
            model,
            competition_of(root),
            split=split,
            out=out,
            batch_size=batch_size,
            change=change,
            progress=progress,
        )
    typer.echo(str(written), err=not written.is_file())  # which may be stdout itself


def kaggle(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What export-best or blend wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    user: Annotated[
        str, typer.Option("--user", envvar="KAGGLE_USERNAME", help="Your name on Kaggle.")
    ] = "INSERT-USERNAME-HERE",
) -> None:
    """Write what Kaggle needs to predict with a bundle or a blend, and to go on searching there.

    A data set with the bundle or blend and this program, a notebook that predicts without the internet, and
    one that trains in sessions of at most twelve hours; with Kaggle's own client these upload them:

    kaggle datasets create -p OUT/dataset --dir-mode zip

    kaggle kernels push -p OUT/inference
    """
    from hms_tune.export.kaggle.folder import write_kaggle_folder

    dataset = write_kaggle_folder(bundle, out, user=user)
    typer.echo(f"{out}: data set {dataset}, notebooks inference and training")


def _adjustment(bundle: Path, test_time: tuple[TestTime, ...], temperature: str) -> Adjustment:
    """What was asked for; its effect is said first, on stderr."""
    from hms_tune.export.adjustment import AS_TRAINED, Adjustment, effect

    given = _temperature(temperature)
    if not test_time and given == 1.0:
        return AS_TRAINED
    found = effect(bundle, test_time, given)
    asked = [*test_time, *([] if given == 1.0 else [f"temperature {given or found.fitted:.3g}"])]
    Terminal(stderr=True).print(f"{', '.join(asked)}: {found}", highlight=False, soft_wrap=True)
    return Adjustment(test_time, given or found.fitted)


def _changes(text: str) -> tuple[TestTime, ...]:
    """What predictions are averaged over, without repeats."""
    asked = [name.strip() for name in text.split(",") if name.strip()]
    known = get_args(TestTime)
    if unknown := [name for name in asked if name not in known]:
        raise UsageError(
            f"--test-time {json.dumps(unknown[0])} is unknown", hint=f"Give {' or '.join(known)}, or both"
        )
    return tuple(name for name in known if name in asked)


def _temperature(text: str) -> float | None:
    """A positive number; None: the one that fits best."""
    if text == "fit":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise UsageError(
            f"--temperature {json.dumps(text)} is no positive number", hint="Give a number, or fit"
        )
    return value


def blend(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Folders that export-best wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The blend, a new folder.")],
    most: Annotated[
        int | None, typer.Option("--most", min=1, help="Most bundles in it; as many as help by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Blend bundles of one competition folder: weights by their out-of-fold predictions, judged fairly.

    hms-tune predict and hms_tune.load_bundle take the blend as they take a bundle.
    """
    from hms_tune.export.blend import write_blend

    say_blend(out, write_blend(bundles, out, most=most), as_json)
