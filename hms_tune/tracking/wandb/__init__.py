"""Weights & Biases: one run for each attempt, grouped by study.

Nothing here can hurt a trial: all of it runs on a thread of its own. Without credentials, or if the server
does not answer within seconds, the run is written to disk, and ``wandb sync`` sends it later.
"""

from hms_tune.tracking.wandb.account import Account, Mode, ask_account
from hms_tune.tracking.wandb.observer import WandbObserver
from hms_tune.tracking.wandb.run import Labels, run_id

__all__ = ["Account", "Labels", "Mode", "WandbObserver", "ask_account", "run_id"]
