"""What the workers of a host ask each other, and how it is written: JSON, one object a line.

``{"ask":"list",…}`` is answered by a line for each running upload, newest first, and ``{"end":true}``. ``{"ask":"cut",…}``
is answered by ``{"cut":null}`` (taken) and, when it is over, by a line that says whether that upload was ended. Lines are
bounded, unknown members refused; whatever is not understood is answered by closing the connection. Both sides may be of
different releases for as long as a restart takes: they then do not understand each other, and say so by not answering.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from relay.db.cursors import LIMIT_MOST
from relay.uploads.running import RunningFilter, RunningUpload

QUESTION_BYTES: Final = 4_096
ANSWER_LINE_BYTES: Final = 65_536
END: Final = b'{"end":true}\n'

TEXT_LIMIT: Final = 256
Text = Annotated[str, Field(max_length=TEXT_LIMIT)]


class _Question(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    def line(self) -> bytes:
        """The question as it is sent."""
        return self.model_dump_json().encode() + b"\n"


class ListQuestion(_Question):
    """Which uploads run in the asked process."""

    ask: Literal["list"] = "list"
    limit: int = Field(ge=1, le=LIMIT_MOST + 1)
    upload_id: Text | None = None
    tenant: Text | None = None
    before: Text | None = None

    @property
    def wanted(self) -> RunningFilter:
        """The filter that is asked for."""
        return RunningFilter(limit=self.limit, upload_id=self.upload_id, tenant=self.tenant, before=self.before)


class CutQuestion(_Question):
    """End this upload, but not after ``until``.

    That is on the monotonic clock, which all processes of a host share: a worker that was stopped must not wake up and
    carry out what everybody else believes did not happen.
    """

    ask: Literal["cut"] = "cut"
    upload_id: Text
    until: float


class CutAnswer(_Question):
    """Whether it was ended by this question; ``None``: the question is taken, and its answer follows."""

    cut: bool | None


Question = Annotated[ListQuestion | CutQuestion, Field(discriminator="ask")]

_QUESTIONS: Final[TypeAdapter[ListQuestion | CutQuestion]] = TypeAdapter(Question)
_UPLOADS: Final = TypeAdapter(RunningUpload)


def parse_question(line: bytes) -> ListQuestion | CutQuestion:
    """Read a question.

    Raises:
        ValueError: it is none.
    """
    return _QUESTIONS.validate_json(line)


def upload_line(upload: RunningUpload) -> bytes:
    """An upload as a line of an answer."""
    return _UPLOADS.dump_json(upload) + b"\n"


def parse_upload(line: bytes) -> RunningUpload:
    """Read such a line.

    Raises:
        ValueError: it is none.
    """
    return _UPLOADS.validate_json(line)


def parse_cut(line: bytes) -> bool | None:
    """Read a line of the answer to a cut.

    Raises:
        ValueError: it is none.
    """
    return CutAnswer.model_validate_json(line).cut
