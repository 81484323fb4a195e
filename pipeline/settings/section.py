"""What every section of params.yaml is made of."""

import os.path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(ge=1)]
HomePath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path that may begin with ~, as in a shell."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]
T = TypeVar("T")
BEST: Literal["best"] = "best"


def _seed_or_best(value: object) -> object:
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    if whole or value == BEST:
        return value
    raise PydanticCustomError("seed_or_best", "Expected a whole number from 0 to 2147483647, or best")


SeedOrBest = Annotated[Seed | Literal["best"], BeforeValidator(_seed_or_best)]
"""A seed, or the word best; looked at first, because of two types that both refuse a value pydantic names each."""


def _differing(values: tuple[T, ...]) -> tuple[T, ...]:
    if twice := [str(value) for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ValueError(f"all values must differ, but these occur more than once: {', '.join(twice)}")
    return values


_UNIQUE = {"uniqueItems": True}
Distinct = Annotated[tuple[T, ...], Field(json_schema_extra=_UNIQUE), AfterValidator(_differing)]
"""A list in which no value stands twice."""
SomeDistinct = Annotated[tuple[T, ...], Field(min_length=1, json_schema_extra=_UNIQUE), AfterValidator(_differing)]
"""The same with at least one value."""


class Section(BaseModel):
    """Base of every group of settings: frozen; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
