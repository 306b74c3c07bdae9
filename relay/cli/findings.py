"""What ``relay doctor`` finds: one line a check, with what to do where it is not well. No secret is ever in one."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; ``advice`` says what to do where the state is not ``ok``."""

    check: str
    state: State
    detail: str
    advice: str | None = None


def ok(check: str, detail: str) -> Finding:
    """Nothing is to be done."""
    return Finding(check, "ok", detail)


def warn(check: str, detail: str, advice: str) -> Finding:
    """It works, but somebody should look at it."""
    return Finding(check, "warn", detail, advice)


def fail(check: str, detail: str, advice: str) -> Finding:
    """Relay cannot keep its promises, or does not start."""
    return Finding(check, "fail", detail, advice)
