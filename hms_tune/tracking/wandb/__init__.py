"""Weights & Biases: one run for each attempt, grouped by study.

Nothing here can hurt a trial. All of it happens on a thread of its own; without credentials, or when the
server does not answer within seconds, the run is written to disk, and ``wandb sync`` completes it later.
"""

from hms_tune.tracking.wandb.account import Account, Mode, ask_account
from hms_tune.tracking.wandb.observer import WandbObserver
from hms_tune.tracking.wandb.run import run_id

__all__ = ["Account", "Mode", "WandbObserver", "ask_account", "run_id"]
