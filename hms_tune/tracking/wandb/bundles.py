"""An exported bundle as an artifact, with where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hms_tune.training.observer import TrialInfo


def log_bundle(run: Any, trial: TrialInfo, path: Path) -> None:
    """Keep a bundle's files as the next version of the study's model.

    The export's run made it, as W&B shows. Its description names the trial, whose run has the
    same configuration hash, and holds the bundle's scores.
    """
    import wandb

    artifact = wandb.Artifact(
        f"{trial.study}-bundle",
        type="model",
        description=f"Trial {trial.trial} of the study {trial.study}",
        metadata={
            "study": trial.study,
            "trial": trial.trial,
            "attempt": trial.attempt,
            "trial_run": f"{trial.study}-{trial.attempt}-{trial.config.hash[:8]}",
            "config_hash": trial.config.hash,
            "metrics": _metrics(path),
        },
    )
    artifact.add_dir(str(path))
    run.log_artifact(artifact, aliases=["best", f"trial-{trial.trial}"])


def _metrics(path: Path) -> dict[str, Any]:
    file = path / "metrics.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
