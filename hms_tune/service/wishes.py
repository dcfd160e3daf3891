"""What becomes of a running attempt when people want something else.

Commands write what is wanted into the database (:mod:`hms_tune.service.control`); a slot reads it at each
event of its trial (:meth:`hms_tune.service.leases.LeaseKeeper.desired`) and ends the attempt as said here.
"""

from __future__ import annotations

from hms_tune.service.attempts import STOPPED_BY_A_PERSON, Result
from hms_tune.service.leases import Wanted


def wished(wanted: Wanted) -> Result:
    """The result of an attempt that people do not want to go on here.

    A stopped trial has failed, and is not pruned: a pruned one tells the sampler that its values are poor,
    and a person may stop a trial for any reason. It does not count towards the failures in a row that end a
    worker.
    """
    match wanted:
        case "trial stopped":
            return Result("failed", reason=STOPPED_BY_A_PERSON, attributes={"cause": "person"})
        case "worker leaves":
            return Result("handed_back", reason="handed back: the worker was asked to leave")
        case "paused" | "stopped":
            return Result("handed_back", reason=f"handed back: the study is {wanted}")
        case "running":
            raise ValueError("a running attempt is to go on")
