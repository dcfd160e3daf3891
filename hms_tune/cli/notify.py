"""``hms-tune study notify``."""

from __future__ import annotations

from hms_tune.config.study_file import StudyFile
from hms_tune.errors import UsageError
from hms_tune.tracking.notify.webhook import Receivers, compose, deliver


def described(study_file: StudyFile) -> str:
    """Who is told of which events; a webhook is named without its secret."""
    receivers = _receivers(study_file)
    events = ", ".join(event.replace("_", " ") for event in study_file.tracking.notify.on)
    return f"{receivers.described()} is told: {events or 'nothing'}"


def send_test(study_file: StudyFile) -> str:
    """Send a message to every receiver, and say to whom it went.

    Raises
    ------
    UsageError
        If there is no receiver.
    NotificationError
        If one did not take it.
    """
    receivers = _receivers(study_file)
    deliver(receivers, compose("test", study_file.study, f"{study_file.study}: a test message of hms-tune"))
    return f"{receivers.described()}: delivered"


def _receivers(study_file: StudyFile) -> Receivers:
    receivers = Receivers.of(study_file.tracking.notify)
    if not receivers:
        raise UsageError(
            "nobody is told anything",
            where=study_file.source,
            hint="Set HMS_TUNE_WEBHOOK, or write tracking: {notify: {webhook: URL}} or a command",
        )
    return receivers
