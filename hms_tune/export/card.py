"""The model card: what a bundle is, how good it is, and what it must not be used for."""

from __future__ import annotations

from hms_tune.config.trial import TrialConfig
from hms_tune.data.labels import HIGH_VOTES
from hms_tune.data.schema import CLASSES
from hms_tune.export.confirmation.race import ON_SCORES, Ranking
from hms_tune.export.onnx import OnnxCheck
from hms_tune.export.scores import Scores
from hms_tune.version import __version__


def model_card(
    *,
    study: str,
    trial: int,
    config: TrialConfig,
    scores: Scores,
    data_digest: str,
    full: bool,
    onnx: OnnxCheck | None,
    ranking: Ranking | None = None,
) -> str:
    """The card as Markdown."""
    sections = [
        _summary(study, trial, config, scores),
        _score_table(scores),
        *([] if ranking is None else [_confirmation(ranking)]),
        _data(config, scores, data_digest),
        _files(scores, full, onnx),
        _usage(config, onnx),
        _LIMITS,
        f"## Configuration\n\n```json\n{config.model_dump_json(indent=2)}\n```",
    ]
    return "\n\n".join(sections) + "\n"


_LAYOUTS = {"grid": "a grid", "channels": "a channel each"}


def _summary(study: str, trial: int, config: TrialConfig, scores: Scores) -> str:
    height, width = config.input.image
    reads = [f"{view.window_seconds:g} s of EEG as {view.name}" for view in config.input.eeg_views.values()]
    if config.input.needs_spectrogram:
        reads.append("the 10-minute spectrogram")
    layout = config.input.layout
    shown = (
        " beside ".join(reads) if layout == "side_by_side" else f"{', '.join(reads)} in {_LAYOUTS[layout]}"
    )
    return (
        f"# {study}, trial {trial}\n\n"
        f"{len(scores.fold_kl)} networks of `{config.model.backbone}`, one for each cross-validation fold, "
        f"that read {shown} as a {height} × {width} image and give the probabilities of "
        f"{', '.join(CLASSES)}. Found and trained by hms_tune {__version__}."
    )


def _score_table(scores: Scores) -> str:
    rows = [
        ("mean over folds (what the search minimized)", scores.kl, scores.prior_kl, scores.rows),
        ("all out-of-fold rows", scores.kl_all_rows, None, scores.rows),
        (f"out-of-fold rows with ≥{HIGH_VOTES} votes", scores.kl_high_vote, None, scores.high_vote_rows),
        (
            "held-out patients, all networks",
            scores.held_out_kl,
            scores.held_out_prior_kl,
            scores.held_out_rows,
        ),
    ]
    lines = [
        "## Scores",
        "",
        "Kullback–Leibler divergence, lower is better. The prior predicts the mean of the training rows.",
        "",
        "| on | KL | KL of the prior | rows |",
        "|---|---|---|---|",
        *(f"| {name} | {_figure(kl)} | {_figure(prior)} | {count} |" for name, kl, prior, count in rows),
        "",
        f"Folds: {', '.join(_figure(kl) for kl in scores.fold_kl)}; best epochs "
        f"{', '.join(str(epoch) for epoch in scores.best_epochs)}.",
    ]
    if scores.corrected is not None:
        lines.append(f"Mean over folds: {scores.corrected}.")
    if scores.held_out_interval is not None:
        low, high = scores.held_out_interval
        lines.append(f"Held-out patients: 95 % interval {low:.3f}–{high:.3f}.")
    if scores.search_kl is not None:
        without = "" if scores.search_corrected is None else f"; {scores.search_corrected} trials"
        lines.append(f"In the search this trial scored {_figure(scores.search_kl)}{without}.")
    return "\n".join(lines)


def _confirmation(ranking: Ranking) -> str:
    """Candidates before and after they were trained again."""
    return (
        "## Confirmation\n\nThe leading trials of the search, trained again with fresh seeds and folds. "
        f"{ON_SCORES}\n\n{ranking.markdown()}"
    )


def _data(config: TrialConfig, scores: Scores, data_digest: str) -> str:
    data = config.data
    rows = (
        "one row per EEG, votes summed"
        if data.rows == "eeg"
        else "one row per distinct vote vector of an EEG"
    )
    return (
        "## Data\n\n"
        f"{rows}, at least {data.min_votes} vote(s); {scores.rows} rows in {data.folds} folds "
        f"({data.fold_scheme}), no patient on both sides of a split, {data.holdout:.0%} of "
        "patients held out of search and folds. "
        f"Digest of the prepared data: `{data_digest}`."
    )


def _files(scores: Scores, full: bool, onnx: OnnxCheck | None) -> str:
    lines = [
        "## Files",
        "",
        "- `config.json`: the configuration, and the SHA-256 of every other file",
        f"- `fold_0.safetensors` … `fold_{len(scores.fold_kl) - 1}.safetensors`: each fold's best epoch",
        "- `oof.parquet`: out-of-fold probabilities and targets by `eeg_id`; `metrics.json`: the scores",
    ]
    if full:
        lines.append("- `full.safetensors`: one network trained on all rows; nothing is left to score it on")
    if onnx is not None:
        lines.append(
            f"- `model.onnx`: image to mean probabilities of all folds, opset {onnx.opset}; differs from "
            f"torch by at most {onnx.max_abs_difference:.1g} on {onnx.images} real images"
        )
    return "\n".join(lines)


def _usage(config: TrialConfig, onnx: OnnxCheck | None) -> str:
    arguments = "eeg" if config.input.needs_eeg else "None"
    if config.input.needs_spectrogram:
        arguments += ", spectrogram"
    return (
        "## Use\n\n"
        "`BUNDLE` is this folder.\n\n"
        "```\nhms-tune predict BUNDLE COMPETITION_FOLDER --out submission.csv\n```\n\n"
        "```python\n"
        "import hms_tune\n\n"
        "bundle = hms_tune.load_bundle(BUNDLE)\n"
        "# EEG: (n_windows, 10000, 20), µV, 200 Hz; spectrogram: (n_windows, 300, 400), µV²/Hz\n"
        f"probabilities = bundle.predict({arguments})\n"
        "```"
        + ("\n\n`model.onnx` starts at the image; `bundle.transform` makes it." if onnx is not None else "")
    )


_LIMITS = """## Intended use and limits

For research and for the Kaggle HMS competition. It is no medical device: it must not guide the care of a
patient. It learnt from critically ill adults of one data set, labelled by experts who often disagree; a
probability here is the share of experts expected to choose a class. It has not been tried on other
recorders, montages, ages or sampling rates. Windows of artefact get a confident answer too."""


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
