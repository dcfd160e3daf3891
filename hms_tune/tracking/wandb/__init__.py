"""Weights & Biases: one run for each attempt, grouped by study.

Nothing here can hurt a trial. All of it happens on a thread of its own; without a key, or when the server
does not answer within seconds, the run is written to disk, and ``wandb sync`` completes it later.
"""

from hms_tune.tracking.wandb.account import Mode, resolve_mode
from hms_tune.tracking.wandb.observer import WandbObserver
from hms_tune.tracking.wandb.run import run_id

__all__ = ["Mode", "WandbObserver", "resolve_mode", "run_id"]
