"""What a competition folder says of itself, in ``hms-tune.yaml`` beside its tables. It needs none.

::

    sampling_rate: 256    # of its EEG files, Hz; they are resampled to 200 Hz when they are read
    votes_per_row: 5      # experts behind a row, where the votes are shares that add up to 1
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from hms_tune.config.yaml_lines import Source, parse_yaml
from hms_tune.data.schema import SFREQ
from hms_tune.errors import DataError
from hms_tune.machine.regular_file import read_regular

STATEMENT = "hms-tune.yaml"

_MOST_BYTES = 10_000
"""It takes about a hundred."""

_BOUNDS = {"sampling_rate": (50, 20_000), "votes_per_row": (1, 1000)}


@dataclass(frozen=True, slots=True)
class Statement:
    """What a folder says.

    Parameters
    ----------
    sampling_rate : at which its EEG files are sampled, Hz
    votes_per_row : experts behind a row whose votes are shares; None: not said
    """

    sampling_rate: int = SFREQ
    votes_per_row: int | None = None

    @classmethod
    def of(cls, root: Path) -> Self:
        """The statement of a folder, or what holds without one.

        Raises
        ------
        DataError
            If the file cannot be read, or says what makes no sense.
        ConfigError
            The same, with the line.
        """
        path = root / STATEMENT
        try:
            text = read_regular(path, most=_MOST_BYTES).decode()
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            what = f"cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
            raise DataError(
                what, where=path, hint="Replace it by a file that says this alone, or remove it"
            ) from error
        return cls._parse(text, Source(str(path)))

    @classmethod
    def _parse(cls, text: str, source: Source) -> Self:
        entries = source.check_keys(parse_yaml(text, source), [field.name for field in fields(cls)], "it")
        said = {}
        for key, located in entries.items():
            lowest, highest = _BOUNDS[key]
            value = located.value
            if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
                source.fail(f"{key} must be a whole number from {lowest} to {highest:,}", located.line)
            said[key] = value
        return cls(**said)
