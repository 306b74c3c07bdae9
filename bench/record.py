"""The results of a run: one JSON object a line, appended as each trial ends, so that a run can be cut and continued.

The first line says which machine, which programs and which rows; ``trial`` lines follow, and ``skip`` lines with reasons.
A round of a row that was cut in the middle counts for nothing: its trials belong side by side.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.trials import Trial

LEAST_ROUNDS = 7
"""Of fewer nothing is judged."""


@dataclass(slots=True)
class Results:
    """What a file of results holds."""

    about: dict[str, Any] = field(default_factory=dict)
    trials: dict[str, dict[int, dict[str, Trial]]] = field(default_factory=dict)
    """By row, round and entrant."""
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)
    """By row and entrant: why it did not take part."""
    complete: dict[str, set[int]] = field(default_factory=dict)
    """By row: the rounds in which everybody has run."""

    def rounds_of(self, row: str) -> list[dict[str, Trial]]:
        """The rounds of a row that count, in order: of the complete ones the half of which the host took the least, and seven at least."""
        rounds = [self.trials[row][number] for number in sorted(self.complete.get(row, ()))]
        if len(rounds) <= LEAST_ROUNDS:
            return rounds
        shares = [fmean(trial.stolen for trial in each.values()) for each in rounds]
        most = sorted(shares)[max(LEAST_ROUNDS, (len(shares) + 1) // 2) - 1]
        return [each for each, share in zip(rounds, shares, strict=True) if share <= most]

    def take(self, line: dict[str, Any]) -> None:
        """Take in one line."""
        kind = line.pop("kind")
        if kind == "run":
            self.about = self.about or line
        elif kind == "skip":
            self.skipped.setdefault(line["row"], {})[line["entrant"]] = line["reason"]
        elif kind == "round":
            self.complete.setdefault(line["row"], set()).add(line["round"])
        else:
            trial = Trial(**line)
            self.trials.setdefault(trial.row, {}).setdefault(trial.round, {})[trial.entrant] = trial
            self.skipped.get(trial.row, {}).pop(trial.entrant, None)  # it has been installed since


class Record:
    """A file of results that is being written."""

    def __init__(self, path: Path, *, is_continued: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = path.read_bytes() if is_continued and path.exists() else b""
        path.write_bytes(kept[: kept.rfind(b"\n") + 1])  # without a last line that was cut
        self.path = path
        self.results = read_results(path)

    def add(self, kind: str, line: dict[str, Any]) -> None:
        """Append a line; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **line}) + "\n")
        self.results.take({"kind": kind, **line})


def read_results(path: Path) -> Results:
    """Read a file of results; a last line that was cut is left out."""
    results = Results()
    for line in _lines(path):
        results.take(line)
    return results


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
