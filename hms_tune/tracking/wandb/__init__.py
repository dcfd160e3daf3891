"""Weights & Biases: one run for each attempt, grouped by study.

Nothing here can hurt a trial: all of it runs on a thread of its own. Without credentials, or if the server
does not answer within seconds, the run is written to disk, and ``wandb sync`` sends it later.
"""

from hms_tune.tracking.wandb.account import Account, ask_account
from hms_tune.tracking.wandb.observer import WandbObserver
from hms_tune.tracking.wandb.run import run_id

__all__ = ["Account", "WandbObserver", "ask_account", "run_id"]
