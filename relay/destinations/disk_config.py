"""What is told of a folder below ``RELAY_DISK_ROOT``."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from relay.destinations.keys import KeyTemplateText
from relay.destinations.members import ConfigMembers, check_relative

_DIRECTORY_LONGEST = 1_024


def _checked_directory(value: str) -> str:
    check_relative(value, below="RELAY_DISK_ROOT")
    return value


class DiskConfig(ConfigMembers):
    """A folder below ``RELAY_DISK_ROOT``; ``key_template`` names the file from the upload's ``{path}``."""

    directory: Annotated[str, Field(min_length=1, max_length=_DIRECTORY_LONGEST), AfterValidator(_checked_directory)]
    overwrite: Literal["refuse", "replace"] = "refuse"
    key_template: KeyTemplateText = "{path}"
