"""What every kind's ``config`` and ``secrets`` are made of: members that are checked one by one.

Values go in as JSON and come out frozen, with their defaults filled in. Whatever is wrong becomes one ``RequestInvalid``
that names every wrong member; a secret's value is in no error, because inputs are never quoted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from relay.errors import FieldError, RequestInvalid

SEGMENT_LONGEST = 255

Seconds = Annotated[int | float, Field(gt=0, le=86_400)]
Reveal = Callable[[], Mapping[str, Any]]


class Members(BaseModel):
    """Members of one JSON object; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class ConfigMembers(Members):
    """A kind's ``config``."""

    def check_beside(self, secret_names: Sequence[str], reveal: Reveal) -> None:
        """Check that these credentials and this config belong together; ``reveal`` opens them, where their names do not say enough.

        Raises:
            RequestInvalid: they do not.
        """


class SecretMembers(Members):
    """A kind's ``secrets``."""

    def plain(self) -> dict[str, Any]:
        """Give them as plain JSON, to be sealed; what is not said is left out."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value.get_secret_value() for name, value in values.items() if isinstance(value, SecretStr)}

    @staticmethod
    def names(plain: Mapping[str, Any]) -> list[str]:
        """Name what ``plain`` gave."""
        return list(plain)


class NoSecrets(SecretMembers):
    """Of a kind that has no credentials."""


Model = TypeVar("Model", bound=Members)


def parse_members(model: type[Model], value: Mapping[str, Any], member: str) -> Model:
    """Check an object that stands under this member of a request.

    Raises:
        RequestInvalid: it names each wrong member, and no value.
    """
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        errors = [_field_error(item["loc"], item["type"], item["msg"], member) for item in found if not _is_half(item["loc"], item["type"])]
        raise RequestInvalid(errors=errors) from None


def misfit(place: tuple[str, ...], code: str, message: str) -> RequestInvalid:
    """What is said of a member that is right by itself and does not fit the others."""
    return RequestInvalid(errors=[FieldError(("body", *place), code, message)])


def check_relative(value: str, *, below: str) -> None:
    """Refuse what is not a plain relative path.

    Raises:
        ValueError: says what to change.
    """
    if not value.isprintable() or "\\" in value:
        raise ValueError("leave out backslashes, NUL and control characters")
    if value.startswith("/"):
        raise ValueError(f"use a relative path: it lies below {below}")
    for segment in value.split("/"):
        if segment in {"", ".", ".."}:
            raise ValueError("leave out empty and dot segments")
        if len(segment.encode()) > SEGMENT_LONGEST:
            raise ValueError(f"use segments of at most {SEGMENT_LONGEST} bytes")


def _is_half(location: tuple[int | str, ...], code: str) -> bool:
    """True for the first of two reports of one fault: a number that may be whole or not is tried as both."""
    return code == "int_type" and location[-1] == "int"


def _field_error(location: tuple[int | str, ...], code: str, message: str, member: str) -> FieldError:
    # The number type that was tried is no member of the request.
    place = location[:-1] if code == "float_type" and location[-1] == "float" else location
    return FieldError(("body", member, *place), code, message.removeprefix("Value error, "))
