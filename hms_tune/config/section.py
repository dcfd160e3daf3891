"""What every part of the configuration is built on."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

FUNCTION = r"^\w+(\.\w+)*:\w+$"
"""What a function that users write is named as: ``package.module:function``."""


class Section(BaseModel):
    """A part of the configuration: immutable, no unknown keys, finite numbers.

    Attributes
    ----------
    LATER : fields that came after the first bundles and checkpoints were written. They are left out of what
        is written where they have their default, so that hashes and seals of earlier versions hold
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    LATER: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def further_names(cls) -> tuple[str, ...]:
        """What its ``name`` may be, if that is of another package's list."""
        return ()

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = dump(self)
        fields = type(self).model_fields
        for name in self.LATER & content.keys():
            if getattr(self, name) == fields[name].default:
                del content[name]
        return content


def names_of(variants: Any) -> str:
    """The names of the sections of an annotated union, as a sentence lists them: ``constant or cosine``."""
    union, *_ = get_args(variants)
    *others, last = (section.model_fields["name"].default for section in get_args(union))
    return f"{', '.join(others)} or {last}"


def is_function(name: object) -> bool:
    """Whether a name is that of a user's function, and none of ours."""
    return isinstance(name, str) and ":" in name


def name_in(given: Any) -> Any:
    """The name of a section, as it is read or as it was made; None: it has none."""
    return given.get("name") if isinstance(given, dict) else getattr(given, "name", None)


def named(value: Any) -> Any:
    """``adamw`` is short for ``{name: adamw}``."""
    return {"name": value} if isinstance(value, str) else value
