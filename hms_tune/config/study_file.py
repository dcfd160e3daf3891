"""The study file: everything a search is, in one YAML.

A study file is a trial configuration in which any value may be a range, plus the sections ``search``,
``budget`` and ``tracking``, the study's name, and ``data.root``, the machine's data folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from hms_tune.config import ranges
from hms_tune.config.range_corners import check_complete
from hms_tune.config.range_reader import ConfigReader, dotted_keys, read_values
from hms_tune.config.ranges import Fixed, Group, parameters
from hms_tune.config.secrets import check_webhook, hidden, public_text
from hms_tune.config.settings import Settings, expanded
from hms_tune.config.study_sections import BudgetConfig, SearchConfig, TrackingConfig
from hms_tune.config.trial import TrialConfig
from hms_tune.config.yaml_lines import LARGEST_TEXT, Located, Source, nearest, parse_yaml
from hms_tune.errors import ConfigError, UnknownStudyError, UsageError

STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
SUFFIXES = (".yaml", ".yml")
FORMAT = 1

SECTIONS: dict[str, type[BaseModel]] = {
    "search": SearchConfig,
    "budget": BudgetConfig,
    "tracking": TrackingConfig,
}

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A checked study file.

    Attributes
    ----------
    study : name of the study, also in the database
    space : the trial configuration with its ranges, complete with every default
    search, budget, tracking : the other sections
    data_root : competition folder on this machine, if the file names one
    text : the file as written
    source : where it was read from, for errors
    """

    study: str
    space: Group
    search: SearchConfig
    budget: BudgetConfig
    tracking: TrackingConfig
    data_root: Path | None
    text: str
    source: str

    @property
    def space_hash(self) -> str:
        """Equal for study files that search the same values, however they are written."""
        return ranges.space_hash(self.space)

    @property
    def max_epochs(self) -> int:
        """The longest a fold can get, over both stages."""
        first = ranges.numbers(self.space, ("training", "epochs"))
        second = ranges.numbers(self.space, ("training", "second_stage", "epochs"))
        return int(max(first) + max(second, default=0))

    @property
    def max_folds(self) -> int:
        """The most folds a trial can train, over all repeats."""
        repeats = int(max(ranges.numbers(self.space, ("data", "fold_repeats"))))
        folds = int(max(ranges.numbers(self.space, ("data", "folds")))) * repeats
        trained = ranges.numbers(self.space, ("data", "train_folds"))
        return min(folds, int(max(trained))) if trained else folds

    def to_json(self) -> str:
        """All that :meth:`from_json` needs to rebuild this on another machine, but no secret."""
        notify = self.tracking.notify
        text = public_text(self.text, webhook=notify.webhook, command=notify.command)
        return json.dumps({"format": FORMAT, "source": self.source, "text": text})

    @classmethod
    def from_json(cls, stored: str) -> Self:
        """Rebuild a study file from :meth:`to_json`, but nobody to be told.

        Others may have written what is stored. A command in it would run here, and a webhook be sent to.

        Raises
        ------
        ConfigError
            If it was stored by a version with another format, or this version refuses the file.
        """
        try:
            fields = json.loads(stored)
            known = fields["format"] == FORMAT and isinstance(fields["text"], str)
        except (ValueError, TypeError, KeyError, RecursionError):
            known = False
        if not known:
            raise ConfigError(
                "the stored study file is of another version of hms-tune",
                hint="Use the version of hms-tune that the study was started with",
            )
        file = cls.parse(fields["text"], str(fields.get("source", "the stored study file")))
        webhook = file.tracking.notify.webhook
        unsent = {"command": None, "webhook": None if webhook is None else hidden(webhook)}
        notify = file.tracking.notify.model_copy(update=unsent)
        return replace(file, tracking=file.tracking.model_copy(update={"notify": notify}))

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Read and check a study file's text.

        Raises
        ------
        ConfigError
            With the line, and for a misspelt key the nearest valid one.
        """
        origin = Source(source, _every_key())
        located = parse_yaml(text, origin)
        entries = origin.check_keys(
            located, ["study", *TrialConfig.model_fields, *SECTIONS], "the study file"
        )
        root, trial = _without_root(located, origin)
        reader = ConfigReader(origin, searchable=True)
        space = reader.section(trial, TrialConfig, "")
        _check_data(space, reader)
        check_complete(space, TrialConfig, origin, reader.lines)
        study_file = cls(
            study=_study_name(entries.get("study"), origin),
            space=space,
            search=_read_section(entries, "search", SearchConfig, origin),
            budget=_read_section(entries, "budget", BudgetConfig, origin),
            tracking=_read_section(entries, "tracking", TrackingConfig, origin),
            data_root=root,
            text=text,
            source=source,
        )
        _check_pruner(study_file, reader)
        _check_parent(study_file, entries, origin)
        if study_file.budget.patience is not None and study_file.search.sampler != "learning_curves":
            origin.fail(
                "budget.patience needs a sampler that says what it expects to gain",
                entries["budget"].line,
                "Use sampler: learning_curves, or leave patience out",
            )
        check_webhook(study_file.tracking.notify.webhook, text, source)
        return study_file


@cache
def _every_key() -> tuple[str, ...]:
    models: dict[str, type[BaseModel]] = {"": TrialConfig, **SECTIONS}
    return tuple(dict.fromkeys(key for name, model in models.items() for key in dotted_keys(model, name)))


def _without_root(located: Located, source: Source) -> tuple[Path | None, Located]:
    """Take ``data.root`` out; what stays are the sections of the trial configuration."""
    entries = {
        key: child for key, child in (located.mapping or {}).items() if key in TrialConfig.model_fields
    }
    data = entries.get("data")
    if data is None or data.mapping is None or "root" not in data.mapping:
        return None, Located(entries, located.line)
    root = data.mapping["root"]
    if root.value is not None and (not isinstance(root.value, str) or not root.value.strip()):
        source.fail("data.root must be a path", root.line)
    rest = {key: child for key, child in data.mapping.items() if key != "root"}
    entries["data"] = Located(rest, data.line)
    if root.value is None:
        return None, Located(entries, located.line)
    try:
        path = expanded(root.value, where="data.root")
    except UsageError as error:
        source.fail(f"data.root: {error.what}", root.line, error.hint)
    return path, Located(entries, located.line)


def _study_name(located: Located | None, source: Source) -> str:
    if located is None:
        source.fail("the study file needs the key study", hint="Give the study a name: study: effnet")
    if not isinstance(located.value, str) or not STUDY_NAME.fullmatch(located.value):
        source.fail(
            f"study name {json.dumps(located.plain())} is refused",
            located.line,
            "Use 1 to 63 lower-case letters, digits and hyphens, beginning with a letter or digit",
        )
    return located.value


def _read_section(entries: Any, name: str, model: type[Model], source: Source) -> Model:
    if name not in entries:
        return model()
    values = read_values(entries[name], model, source, name)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        source.fail(f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}", entries[name].line)


def _check_data(space: Group, reader: ConfigReader) -> None:
    """Folds are shared by all trials of a study: only their number may vary."""
    for parameter in parameters(space.entries["data"], "data"):
        if parameter.name != "data.folds":
            reader.source.fail(
                f"{parameter.name} must be the same for all trials of a study, which share their folds",
                reader.lines.get(parameter.name),
                "Only data.folds may be a range; make one study per value of the others",
            )


def _check_parent(study_file: StudyFile, entries: Any, source: Source) -> None:
    parent = study_file.search.parent
    if parent is not None and (parent == study_file.study or not STUDY_NAME.fullmatch(parent)):
        source.fail(
            f"search.parent cannot be {json.dumps(parent)}",
            entries["search"].line,
            "Name another study, as hms-tune study list does",
        )


def _check_pruner(study_file: StudyFile, reader: ConfigReader) -> None:
    """A pruner that compares whole folds needs trials that all have the same."""
    pruner = study_file.search.pruner
    if not pruner.compares_whole_folds:
        return
    data = study_file.space.entries["data"]
    searched = any(parameter.name == "data.folds" for parameter in parameters(data, "data"))
    reshuffled = isinstance(data, Group) and data.entries["reshuffle"] == Fixed(True)
    if searched or reshuffled:
        key, state = ("data.folds", "be a range") if searched else ("data.reshuffle", "be true")
        reader.source.fail(
            f"{key} cannot {state} with the {pruner.name} pruner, which compares trials fold by fold",
            reader.lines.get(key),
            "Fix data.folds and data.reshuffle, or choose another pruner",
        )


def load_study_file(name_or_path: str | Path, settings: Settings | None = None) -> StudyFile:
    """Read a study file by the study's name, or by path.

    A name finds ``NAME.yaml`` here, then in ``./studies``, then in ``HMS_TUNE_STUDIES``, then among the
    studies that come with hms-tune. Whatever ends in ``.yaml`` or ``.yml`` is a path.

    Raises
    ------
    ConfigError
        If the name is no study name, or the file is refused.
    UnknownStudyError
        If there is no such file; the error names the nearest study.
    """
    name = str(name_or_path)
    if name.endswith(SUFFIXES):
        path = Path(name)
        if not path.is_file():
            raise UnknownStudyError("no such study file", where=name, hint=_known(path.stem, settings))
        return StudyFile.parse(_read_text(path), name)
    if not STUDY_NAME.fullmatch(name):
        raise ConfigError(
            f"{json.dumps(name)} is no study name",
            hint="Use 1 to 63 lower-case letters, digits and hyphens, or a path that ends in .yaml",
        )
    found = _here(name) or available_studies(settings).get(name)
    if found is None:
        raise UnknownStudyError(f'no study file "{name}"', hint=_known(name, settings))
    study_file = StudyFile.parse(_read_text(found), _shown(found))
    if study_file.study != name:
        raise ConfigError(
            f'holds the study "{study_file.study}", not "{name}"',
            where=_shown(found),
            hint="Give the file and its study the same name, or pass the path",
        )
    return study_file


def _here(name: str) -> Path | None:
    """The file of this name in the working folder, whose other YAML files may be no studies."""
    paths = (Path(f"{name}{suffix}") for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def available_studies(settings: Settings | None = None) -> dict[str, Path]:
    """Study files by name, as a name finds them."""
    found: dict[str, Path] = {}
    for folder in _folders(settings or Settings.from_environment()):
        for suffix in SUFFIXES:
            for path in sorted(folder.glob(f"*{suffix}")):
                if STUDY_NAME.fullmatch(path.stem):
                    found.setdefault(path.stem, path)
    return found


def _folders(settings: Settings) -> Iterator[Path]:
    yield Path("studies")
    if settings.studies is not None:
        yield settings.studies
    package = Path(__file__).resolve().parents[1]
    yield package / "study_files"  # where the wheel has them
    if (package.parent / "pyproject.toml").is_file():
        yield package.parent / "studies"


def _known(name: str, settings: Settings | None) -> str:
    studies = sorted(available_studies(settings))
    if not studies:
        return "Pass the path of a study file"
    here = [path.stem for suffix in SUFFIXES for path in Path().glob(f"*{suffix}")]  # may be no studies
    known = f"known: {', '.join(studies)}"
    near = nearest(name, [*studies, *here])
    hint = f"{near} ({known})" if near.startswith("nearest") else known
    return f"{hint[0].upper()}{hint[1:]}"


def _shown(path: Path) -> str:
    """The path as short as it is from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(LARGEST_TEXT + 1)
    except UnicodeDecodeError as error:
        raise ConfigError("the file is not UTF-8 text", where=path) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=path) from error
