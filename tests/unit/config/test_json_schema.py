"""The JSON schema that editors read."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from hms_tune.config.json_schema import schema_text, study_schema
from hms_tune.config.study_file import StudyFile
from hms_tune.config.yaml_lines import Source, parse_yaml

STUDIES = Path(__file__).parents[3] / "studies"
FILES = sorted(STUDIES.glob("*.yaml"))
GALLERY = sorted(STUDIES.glob("gallery/*.yaml"))


@cache
def schema() -> Draft202012Validator:
    """Made once: it is the same for every document."""
    return Draft202012Validator(study_schema())


def plain(path: Path) -> Any:
    return parse_yaml(path.read_text(encoding="utf-8"), Source(str(path))).plain()


def test_the_committed_schema_is_current() -> None:
    committed = (STUDIES / "study.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), (
        "run: python -m hms_tune.config.json_schema > studies/study.schema.json"
    )
    Draft202012Validator.check_schema(json.loads(committed))


@pytest.mark.parametrize("path", [*FILES, *GALLERY], ids=lambda path: path.stem)
def test_every_study_fits_the_schema_and_is_accepted(path: Path) -> None:
    assert [error.message for error in schema().iter_errors(plain(path))] == []
    text = path.read_text(encoding="utf-8")
    assert StudyFile.parse(text, path.name).study == path.stem
    assert text.startswith("# yaml-language-server: $schema=study.schema.json\n") or path in GALLERY


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("training", "learning_rat"), 0.1),
        (("training", "learning_rate"), {"low": 0.1}),
        (("training", "learning_rate"), {"low": 0.1, "high": 99.0}),
        (("training", "batch_size"), {"low": 1.5, "high": 4}),
        (("training", "scheduler"), {"choices": [{"name": "platau"}]}),
        (("training", "scheduler"), {"choices": []}),
        (("input", "eeg", "n_fft"), {"low": 128, "high": 256}),
        (("input", "eeg"), {"n_fft": 256}),
        (("input", "kaggle"), "keggle"),
        (("data", "holdout"), {"low": 0.1, "high": 0.2}),
        (("budget", "trials"), 0),
        (("study",), "a/b"),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(place: tuple[str, ...], value: object) -> None:
    document = copy.deepcopy(plain(STUDIES / "smoke.yaml"))
    *sections, key = place
    section = document
    for name in sections:
        section = section[name]
    section[key] = value
    assert not schema().is_valid(document)
