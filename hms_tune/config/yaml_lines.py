"""YAML whose every value knows its line, so that an error can name it.

The scalars are those of YAML 1.2's core schema: ``1e-3`` is a number and ``off`` is a word (PyYAML's own
resolver, made for YAML 1.1, reads them as a string and as ``False``). No tag builds an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from typing import Any, NoReturn

import yaml

from hms_tune.errors import ConfigError

Scalar = None | bool | int | float | str

LARGEST_TEXT = 300_000
"""Characters. The study files that come with hms-tune have about 3,000."""
MOST_VALUES = 20_000
DEEPEST = 40
_LONGEST_INTEGER = 19

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Located:
    """A YAML value and the line of the key that introduces it (its own line inside a list).

    The line of what was not read from a text is 0.
    """

    value: Scalar | tuple[Located, ...] | Mapping[str, Located]
    line: int

    @property
    def mapping(self) -> Mapping[str, Located] | None:
        """The entries, when this is a mapping."""
        return self.value if isinstance(self.value, Mapping) else None

    def plain(self) -> Any:
        """The value without lines: dict, list or scalar."""
        if isinstance(self.value, Mapping):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain() for child in self.value]
        return self.value


def as_located(value: Any) -> Located:
    """A dict, list or scalar that was not read from a text."""
    if isinstance(value, Mapping):
        return Located({key: as_located(child) for key, child in value.items()}, 0)
    if isinstance(value, list | tuple):
        return Located(tuple(map(as_located, value)), 0)
    return Located(value, 0)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a text came from; makes the errors that point into it.

    ``keys`` are the dotted keys that such a text may hold, for who wrote one into the wrong place.
    """

    name: str
    keys: Sequence[str] = field(default=(), repr=False)

    def fail(self, what: str, line: int | None = None, hint: str | None = None) -> NoReturn:
        """Raise the :class:`~hms_tune.errors.ConfigError` of this line."""
        raise self.error(what, line, hint)

    def error(self, what: str, line: int | None = None, hint: str | None = None) -> ConfigError:
        """The :class:`~hms_tune.errors.ConfigError` of this line."""
        return ConfigError(what, where=f"{self.name}:{line}" if line else self.name, hint=hint)

    def check_keys(
        self, located: Located, known: Iterator[str] | list[str], place: str
    ) -> Mapping[str, Located]:
        """The entries of a mapping, all of whose keys are known.

        Raises
        ------
        ConfigError
            If it is no mapping, or holds an unknown key; the error names the nearest valid one.
        """
        valid = list(known)
        entries = located.mapping
        if entries is None:
            self.fail(f"{place} must be a mapping with the keys {', '.join(valid)}", located.line)
        for key, child in entries.items():
            if key not in valid:
                self.fail(f'unknown key "{key}" in {place}; {nearest(key, valid, self.keys)}', child.line)
        return entries


_SYNONYMS = {
    "backbone": ("arch", "architecture", "encoder", "model_name", "network"),
    "batch_size": ("bs", "batch", "batchsize", "train_batch_size"),
    "drop_path": ("drop_path_rate", "stochastic_depth", "dpr"),
    "dropout": ("drop_rate", "dropout_rate", "p_drop"),
    "early_stopping": ("early_stop", "es"),
    "ema_decay": ("ema", "model_ema"),
    "epochs": ("num_epochs", "n_epochs", "max_epochs"),
    "folds": ("n_folds", "num_folds", "n_splits", "kfold"),
    "frozen_layers": ("freeze", "frozen", "freeze_layers"),
    "grad_clip": ("clip", "clip_grad", "max_norm", "gradient_clip_val", "max_grad_norm"),
    "hours": ("timeout", "max_hours"),
    "image": ("size", "img_size", "image_size", "resolution"),
    "label_smoothing": ("smoothing", "ls"),
    "learning_rate": ("lr", "base_lr", "init_lr", "max_lr"),
    "loss": ("criterion", "loss_fn"),
    "mixup_alpha": ("mixup",),
    "cutmix_alpha": ("cutmix",),
    "optimizer": ("opt", "optim", "optimiser"),
    "precision": ("amp", "fp16", "bf16", "dtype", "mixed_precision"),
    "pretrained": ("weights", "imagenet"),
    "sampler": ("algorithm", "search_algorithm"),
    "scheduler": ("sched", "lr_scheduler", "schedule"),
    "seed": ("random_state", "random_seed"),
    "trials": ("n_trials", "num_trials", "max_trials"),
    "warmup": ("warmup_ratio", "warmup_steps", "warmup_proportion"),
    "weight_decay": ("wd", "l2", "weightdecay"),
}
_MEANT = {word: key for key, words in _SYNONYMS.items() for word in words}


def nearest(word: str, known: Sequence[str], elsewhere: Sequence[str] = ()) -> str:
    """``nearest: x``, or ``known: x, y, z`` when nothing is near.

    The last parts of dotted names are compared: ``training.lr`` is near to ``training.learning_rate``, not to
    ``training.scheduler``.

    Parameters
    ----------
    known : what could stand in its place
    elsewhere : what could stand in other places, to be named where nothing is near in this one
    """
    found = _near(word, known, cutoff=0.6) or _near(word, elsewhere, cutoff=0.8)
    return f"nearest: {found}" if found else f"known: {', '.join(known)}"


def _near(word: str, names: Sequence[str], *, cutoff: float) -> str | None:
    last = _last(word).lower().replace("-", "_")
    meant = _MEANT.get(last, last)
    by_last: dict[str, list[str]] = {}
    for name in names:
        by_last.setdefault(_last(name), []).append(name)
    if meant not in by_last:
        close = get_close_matches(meant, by_last, n=1, cutoff=cutoff)
        if not close:
            return None
        meant = close[0]
    return max(by_last[meant], key=lambda name: SequenceMatcher(None, word, name).ratio())


def _last(name: str) -> str:
    return name.rpartition(".")[2]


_NO_LETTERS = re.compile("[\0\ud800-\udfff]")
"""What an escape can stand for and neither a database nor a path can hold."""


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema, which stops where a text becomes too large."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's attribute)

    def __init__(self, text: str, source: Source) -> None:
        super().__init__(text)
        self._source = source
        self._nodes = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next value, unless it is one too many: a megabyte of them would take half a minute."""
        self._nodes += 1
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self._nodes > MOST_VALUES:
            self._source.fail(f"more than {MOST_VALUES:,} keys and values", line)
        if self._depth > DEEPEST:
            self._source.fail(f"nested deeper than {DEEPEST} levels", line)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _CoreLoader.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), _first)


def parse_yaml(text: str, source: Source) -> Located:
    """Read one YAML document.

    Raises
    ------
    ConfigError
        If the text is no YAML, holds a key twice, is too large or nested too deeply, asks for an object,
        or holds what is no letter.
    """
    if len(text) > LARGEST_TEXT:
        source.fail(f"more than {LARGEST_TEXT:,} characters are too many for a study file")
    try:
        root = _CoreLoader(text, source).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        source.fail(
            f"not valid YAML: {error.problem or error.context}", None if mark is None else mark.line + 1
        )
    except yaml.YAMLError as error:
        source.fail(f"not valid YAML: {' '.join(str(error).split())}")
    except (ValueError, OverflowError) as error:  # an escape that stands for no letter
        source.fail(f"not valid YAML: {error}")
    if root is None:
        source.fail("the file is empty")
    return _Composer(source).convert(root, root.start_mark.line + 1, 0)


class _Composer:
    """Turns PyYAML nodes into located values; counts them, since an alias can stand for a great many."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._values = 0

    def convert(self, node: yaml.Node, line: int, depth: int) -> Located:
        self._values += 1
        if self._values > MOST_VALUES:
            self._source.fail(f"more than {MOST_VALUES:,} values (aliases count each time)", line)
        if depth > DEEPEST:
            self._source.fail(f"nested deeper than {DEEPEST} levels", line)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return Located(self._mapping(node, depth), line)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            items = tuple(self.convert(item, item.start_mark.line + 1, depth + 1) for item in node.value)
            return Located(items, line)
        if isinstance(node, yaml.ScalarNode):
            return Located(self._scalar(node, line), line)
        raise self._source.error(f'the tag "{node.tag}" is not used in study files', line)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Located]:
        entries: dict[str, Located] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._source.fail("a key must be a word", line)
            key = self._letters(key_node.value, line)
            if key in entries:
                self._source.fail(f'key "{key}" is given twice, first on line {entries[key].line}', line)
            entries[key] = self.convert(value_node, line, depth + 1)
        return entries

    def _whole(self, text: str, line: int) -> int:
        """An integer of 64 bits; others are no number for most of what follows, such as a division."""
        if len(text) > _LONGEST_INTEGER:
            self._source.fail(f'"{text[:40]}" has too many digits', line)
        return int(text)

    def _letters(self, text: str, line: int) -> str:
        if found := _NO_LETTERS.search(text):
            self._source.fail(f"\\u{ord(found[0]):04x} stands for no letter", line)
        return text

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Scalar:
        text: str = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return self._whole(text, line)
                case "float":
                    return float(text)
                case "str":
                    return self._letters(text, line)
                case _:
                    pass
        except ValueError:
            self._source.fail(f'"{text[:40]}" is no {node.tag.removeprefix(_TAG)}', line)
        raise self._source.error(f'the tag "{node.tag}" is not used in study files', line)
