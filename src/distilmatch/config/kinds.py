"""`ConfigOfKinds`: a config that comes in kinds, each a class with settings of its own, told apart by `kind`."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from distilmatch.config.base import FrozenConfig
from distilmatch.errors import did_you_mean

logger = logging.getLogger(__name__)


class ConfigOfKinds(FrozenConfig):
    """Base of a family: a direct subclass names the family and its first kind, the subclasses of that are the kinds.

    The family's own class, called or asked to read settings, gives the config of the kind that the settings name. A kind's
    class is known as soon as it is defined, so that a loss of a user's own needs no change here.

    Attributes:
        kind: which of them this is.
    """

    kind: str

    kinds: ClassVar[dict[str, type[ConfigOfKinds]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if ConfigOfKinds in cls.__bases__:
            cls.kinds = {}
        elif cls._is_family():  # pragma: no cover - the attribute is the family's, never a kind's
            raise TypeError(f"{cls.__name__} takes the place of its family's kinds")
        else:
            cls.kinds[str(cls.model_fields["kind"].default)] = cls

    @classmethod
    def _is_family(cls) -> bool:
        return "kinds" in cls.__dict__

    def __new__(cls, *_: Any, **settings: Any) -> Self:
        """Of the class of the kind that the settings name."""
        return super().__new__(cls._class_of(settings) or cls)

    @classmethod
    def _class_of(cls, settings: Any) -> type[Self] | None:
        """The class of the kind that `settings` name; None where there is no such kind."""
        if not cls._is_family():
            return cls
        kind = settings.get("kind", cls.model_fields["kind"].default)
        chosen: type[Self] | None = cls.kinds.get(kind) if isinstance(kind, str) else None  # type: ignore[assignment]
        return chosen

    @model_validator(mode="wrap")
    @classmethod
    def _as_its_kind(cls, settings: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(settings, dict):
            return read(settings)
        chosen = cls._class_of(settings)
        if chosen is None:
            raise cls._unknown_kind(settings["kind"])
        if chosen is not cls:
            return chosen.model_validate(settings)
        return read({name: value for name, value in settings.items() if not cls._is_of_another_kind(name, value)})

    def replaced(self, **changes: Any) -> Self:
        """A validated copy with `changes`, which may name another kind; what only this one has is then left behind."""
        family = next(cls for cls in type(self).__mro__ if "kinds" in cls.__dict__)
        settings = self.to_dict()
        if "kind" in changes and changes["kind"] in self.kinds:
            settings = {
                name: value for name, value in settings.items() if name in self.kinds[changes["kind"]].model_fields
            }
        return family.from_dict({**settings, **changes})  # type: ignore[attr-defined, no-any-return]

    @classmethod
    def _is_of_another_kind(cls, name: Any, value: Any) -> bool:
        """Whether a setting has no meaning for this kind. Recipes before kinds had settings of their own named them all."""
        if name in cls.model_fields or name not in cls.known_settings():
            return False
        if value != cls.known_settings()[name].default:
            logger.warning("`%s: %s` does nothing here: kind %s has no such setting", name, value, cls._name())
        return True

    @classmethod
    def _name(cls) -> str:
        return str(cls.model_fields["kind"].default)

    @classmethod
    def _unknown_kind(cls, kind: Any) -> ValidationError:
        names = ", ".join(cls.kinds)
        message = f"must be one of {names}, not {kind!r}{did_you_mean(str(kind), cls.kinds)}"
        if kind is None:
            message = f"one of {names} is wanted, and nothing is given: leave it out for its default"
        return ValidationError.from_exception_data(
            cls.__name__,
            [{"type": PydanticCustomError("unknown_kind", message), "loc": ("kind",), "input": kind}],  # type: ignore[arg-type]
        )

    @classmethod
    def known_settings(cls) -> dict[str, FieldInfo]:
        """The settings of all kinds, those of this one first."""
        known = dict(cls.model_fields)
        for kind in cls.kinds.values():
            known = {**kind.model_fields, **known}
        return known
