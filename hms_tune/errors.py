"""Every error a user may meet.

Each says what happened, where (file, column, study, trial) and what to do next::

    HmsTuneError
    ├── UsageError                 the request itself is wrong (exit code 2)
    │   ├── ConfigError            a study file or trial configuration
    │   └── UnknownStudyError      no study of that name
    ├── DataError                  a competition folder, its files, its labels
    │   ├── DownloadError          the competition cannot be fetched or unpacked
    │   └── StoreError             the prepared form of a competition folder
    ├── SignalError                EEG that cannot become an image
    ├── ModelError                 a backbone, its layers, its weights
    │   └── PretrainedError        pretrained weights out of reach
    ├── TrainingError              a trial that cannot go on
    │   ├── NonFiniteLossError     the loss became NaN or infinite
    │   ├── MemoryPlanError        the device has no room for the trial
    │   ├── RankLostError          a process of a trial on several devices is gone
    │   └── CheckpointError        a checkpoint that is damaged or does not belong
    ├── StorageError               the database
    │   ├── StorageAwayError       it does not answer, and may come back
    │   ├── EmptyDatabaseError     no worker has used it yet
    │   ├── RewoundError           an older backup of it was restored under this process
    │   ├── LeaseLostError         another worker owns this trial now
    │   ├── SpaceChangedError      a running study's search space differs from its file
    │   └── DataChangedError       a running study's trials ran on other data
    ├── ArtifactError              the place where checkpoints are shared
    ├── BundleError                an exported model
    └── NotificationError          a webhook or a command that should tell people something
"""

from __future__ import annotations

from os import PathLike


class HmsTuneError(Exception):
    """An error with a hint.

    Parameters
    ----------
    what : what happened, one clause
    where : the file, column, study or trial it happened in
    hint : what to do next
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: str | PathLike[str] | None = None, hint: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        stop = "" if text.endswith("?") else "."
        return text if self.hint is None else f"{text}{stop} {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.hint)


def _rebuild(kind: type[HmsTuneError], what: str, where: str | None, hint: str | None) -> HmsTuneError:
    """Unpickle an error that crossed a process boundary."""
    return kind(what, where=where, hint=hint)


class UsageError(HmsTuneError):
    """The request itself is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A study file or trial configuration that cannot be used."""


class UnknownStudyError(UsageError):
    """No study of that name in the storage, or no study file."""


class DataError(HmsTuneError):
    """A competition folder, one of its files, or its labels."""


class DownloadError(DataError):
    """The competition cannot be fetched, or its archive not unpacked."""


class StoreError(DataError):
    """The prepared form of a competition folder."""


class SignalError(HmsTuneError):
    """EEG or a spectrogram that cannot become an image."""


class ModelError(HmsTuneError):
    """A backbone, its layers or its weights."""


class PretrainedError(ModelError):
    """Pretrained weights are out of reach."""


class TrainingError(HmsTuneError):
    """A trial that cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite; the optimizer step that would spread it was not taken."""


class MemoryPlanError(TrainingError):
    """The device has no room for the trial; nothing was allocated.

    Parameters
    ----------
    excess : by what share the bytes needed exceed those there are; above 0
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | PathLike[str] | None = None,
        hint: str | None = None,
        excess: float = 1.0,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.excess = excess


class RankLostError(TrainingError):
    """One of the processes that train a trial together is gone or silent; the others cannot go on."""


class CheckpointError(TrainingError):
    """A checkpoint that is damaged or belongs to another trial."""


class StorageError(HmsTuneError):
    """The database cannot be reached or used."""


class StorageAwayError(StorageError):
    """The database does not answer. It may come back."""


class EmptyDatabaseError(StorageError):
    """No worker has used the database yet: there is nothing to read."""


class RewoundError(StorageError):
    """The database is an earlier one than this process knew: a backup was restored. A new process goes on."""


class LeaseLostError(StorageError):
    """Another worker owns this trial now; what this attempt still computes is dropped."""


class SpaceChangedError(StorageError):
    """The study in the database was started with another search space."""


class DataChangedError(StorageError):
    """The trials of the study in the database ran on other data."""


class ArtifactError(HmsTuneError):
    """The folder or S3 bucket where the fleet shares its checkpoints."""


class BundleError(HmsTuneError):
    """An exported model that is incomplete or does not fit the data."""


class NotificationError(HmsTuneError):
    """A webhook or a command that did not take a message."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
