"""What W&B is set to on this machine: whether it sends runs, where to, and with which credentials.

W&B itself reads its variables, settings files, netrc and identity tokens; this module asks for the result.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any, Literal

from hms_tune.errors import first_line

logger = logging.getLogger(__name__)


KEPT_AWAY = (
    "WANDB_CONFIG_PATHS",
    "WANDB_FORK_FROM",
    "WANDB_LAUNCH",
    "WANDB_LAUNCH_CONFIG_PATH",
    "WANDB_REINIT",
    "WANDB_RESUME",
    "WANDB_RESUME_FROM",
    "WANDB_RUN_ID",
    "WANDB_SERVICE",
    "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH",
)
"""Variables that would make attempts share a run, a configuration or a background process.

A sweep, a launch or a notebook leaves them behind; in a sweep W&B opens another run than the one it is told.
"""

_LOGIN = "Run wandb login, or wandb sync later"
_ONLINE = "Run wandb online, and unset WANDB_MODE"


@dataclass(frozen=True, slots=True)
class Account:
    """What ``auto`` means here.

    Attributes
    ----------
    mode : whether runs are sent, kept on disk, or not written at all
    host : the server's address
    reason, hint : why runs are not sent, and what to do about it; None when they are
    faulty : whether that is because the credentials cannot be used
    """

    mode: Literal["online", "offline", "off"]
    host: str
    reason: str | None = None
    hint: str | None = None
    faulty: bool = False


def ask_account() -> Account:
    """Ask W&B which mode and server its configuration names, and whether it has credentials for that server.

    The server itself is not asked. What W&B raises of a configuration that it cannot read goes to the caller.
    """
    keep_away()
    import wandb

    settings = load_settings()
    host = str(settings.base_url)
    if settings.mode == "disabled":
        return Account("off", host, "W&B is set to disabled", _ONLINE)
    if settings.mode in ("offline", "dryrun"):
        return Account("offline", host, "W&B is set to offline", _ONLINE)
    try:
        if wandb.login(prompt=False, verify=False):
            return Account("online", host)
    except (wandb.Error, ValueError) as error:
        return Account("offline", host, first_line(error).rstrip("."), _LOGIN, faulty=True)
    return Account("offline", host, f"no credentials for {host}", _LOGIN)


def load_settings() -> Any:
    """W&B's settings for this process. Its background process is started too, unless W&B is disabled."""
    os.environ.setdefault("WANDB_SILENT", "true")  # wandb's login reads only the environment
    import wandb

    # Unless it is silent here too, login asks the server who it is, for a line to show, and waits for long.
    return wandb.setup(wandb.Settings(silent=True)).settings


def keep_away() -> None:
    """Remove :data:`KEPT_AWAY` from this process's environment, before W&B reads it."""
    ignored = [name for name in KEPT_AWAY if os.environ.pop(name, None)]
    if ignored:
        logger.warning("W&B: %s not used; each attempt has a run of its own", ", ".join(ignored))
