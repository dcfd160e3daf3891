"""One of the further ranks of a slot, in a process of its own.

It computes what the slot's process says and knows of no database, no tracking and no checkpoint.
"""

from __future__ import annotations

import logging
import os
import threading
from multiprocessing.connection import Connection

from hms_tune.errors import HmsTuneError, RankLostError
from hms_tune.machine.stop_signals import leave_signals_to_the_worker
from hms_tune.training.distributed.group import RankPlace
from hms_tune.worker.pipe import PipeLogHandler, PipeObserver, SlotFailed
from hms_tune.worker.slot_process import ORPHAN_S, SlotPlan

_logger = logging.getLogger(__name__)


def rank_main(plan: SlotPlan, place: RankPlace, device: str, pipe: Connection) -> None:
    """Follow the slot's process; the exit status is 0 when it dismissed this rank.

    Parameters
    ----------
    plan : the slot's
    place : which rank this is, and where the others are met
    device : where it computes
    pipe : for its log; the supervisor's end closes when the supervisor is gone
    """
    leave_signals_to_the_worker()
    threading.Thread(target=_end_when_orphaned, args=(pipe,), name="supervisor", daemon=True).start()
    teller = PipeObserver(pipe)
    logging.basicConfig(level=logging.WARNING, handlers=[PipeLogHandler(teller)], force=True)
    status = 0
    try:
        _follow(plan, place, device)
    except RankLostError as error:
        _logger.warning("Rank %d of slot %s: %s", place.rank, plan.slot, error)
        status = 1
    except HmsTuneError as error:
        teller.send(SlotFailed(error))
        status = 1
    os._exit(status)


def _end_when_orphaned(pipe: Connection) -> None:
    try:
        pipe.recv()
    except (EOFError, OSError):  # the slot's process hands its trial back meanwhile
        threading.Event().wait(ORPHAN_S)
        os._exit(1)


def _follow(plan: SlotPlan, place: RankPlace, device_name: str) -> None:
    import torch

    from hms_tune.data.store.prepare import prepare
    from hms_tune.machine.device import resolve_device
    from hms_tune.training.cross_validation import CrossValidation
    from hms_tune.training.distributed.group import join
    from hms_tune.training.rank_trials import TrialRequest, follow_trials
    from hms_tune.training.workspace import Workspace

    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    device = resolve_device(device_name)
    store = prepare(plan.data_root)
    group = join(place, device)
    workspace = Workspace(store, device, ranks=group.ranks)

    def start(request: TrialRequest) -> CrossValidation:
        return CrossValidation(
            request.config, workspace, directory=request.directory, keep_weights=request.keep_weights
        )

    follow_trials(group, start)
