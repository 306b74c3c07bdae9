"""One run: groups of rows, each on a stage of its own; in a group round after round; in a round row after row.

A round of a row is everybody once, in an order drawn by lot: who comes after whom matters, for what a server leaves to be done, on
a disk or in a cache, is done while the next one is measured. What is done is on disk; a run that is continued does only what is left.
"""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.kept import run_kept
from bench.machine import Ticks
from bench.processes import BrokenError
from bench.record import Record
from bench.rows import Entrant, Row
from bench.stage import Stage, find_obstacle, staged
from bench.stalled import run_stalled
from bench.tenants import Crowd
from bench.trials import Trial, run_load


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a run goes. ``deadline`` is when no further round begins, on the monotonic clock."""

    rounds: int
    seconds: float
    deadline: float | None = None
    database_url: str | None = None


class Session:
    """A run that writes into a record."""

    def __init__(self, record: Record, plan: Plan) -> None:
        self._record = record
        self._plan = plan
        self._crowds: dict[str, Crowd] = {}
        self._told: set[tuple[str, str]] = set()
        self.is_cut = False

    def run(self, rows: Sequence[Row]) -> None:
        """Run what is not in the record yet."""
        rows = [row for row in rows if self._note_obstacles(row)]
        for group in dict.fromkeys(row.group for row in rows):
            ours = [row for row in rows if row.group == group and self._left(row)]
            if ours:
                with staged(self._plan.database_url) as stage:
                    self._crowds.clear()
                    self._run_group(stage, ours)

    def _note_obstacles(self, row: Row) -> bool:
        """Note who cannot take part; false where nobody is left to be judged."""
        skipped = self._record.results.skipped
        skipped.pop(row.name, None)  # it may have been installed since
        for entrant in row.entrants:
            obstacle = find_obstacle(entrant.server)
            if obstacle is not None:
                self._record.add("skip", {"row": row.name, "entrant": entrant.name, "reason": obstacle})
                if (entrant.name, obstacle) not in self._told:
                    self._told.add((entrant.name, obstacle))
                    print(f"skipped: {entrant.name}: {obstacle}")
        return len(skipped.get(row.name, {})) < len(row.entrants) and row.entrants[0].name not in skipped.get(row.name, {})

    def _left(self, row: Row) -> bool:
        return len(self._record.results.complete.get(row.name, ())) < self._rounds_of(row)

    def _rounds_of(self, row: Row) -> int:
        return self._plan.rounds * row.rounds

    def _run_group(self, stage: Stage, rows: Iterable[Row]) -> None:
        rows = list(rows)
        for round_ in range(max(map(self._rounds_of, rows))):
            for row in rows:
                if round_ >= self._rounds_of(row) or round_ in self._record.results.complete.get(row.name, ()):
                    continue
                if self._plan.deadline is not None and time.monotonic() > self._plan.deadline:
                    self.is_cut = True
                    return
                self._run_round(stage, row, round_)

    def _run_round(self, stage: Stage, row: Row, round_: int) -> None:
        skipped = self._record.results.skipped.get(row.name, {})
        is_extra = round_ >= self._plan.rounds
        takers = [entrant for entrant in row.entrants if entrant.name not in skipped and (entrant.name in row.judged or not is_extra)]
        random.Random(f"{row.name} {round_}").shuffle(takers)
        for entrant in takers:
            print(f"  round {round_ + 1}/{self._rounds_of(row)}  {row.title}: {entrant.name:<40}", end="\r", flush=True)
            before = Ticks.now()
            try:
                trial = self._run_trial(stage, row, round_, entrant)
            except BrokenError as error:
                raise BrokenError(f"{row.title}: {entrant.name}: {error}\n{stage.told_by(entrant.server)}") from None
            trial.stolen = Ticks.now().stolen_since(before)
            self._record.add("trial", trial.as_record())
        self._record.add("round", {"row": row.name, "round": round_})

    def _run_trial(self, stage: Stage, row: Row, round_: int, entrant: Entrant) -> Trial:
        if row.kind == "stalled":
            return run_stalled(stage, row.name, round_, entrant)
        if row.kind == "kept":
            return run_kept(stage, row.name, round_, entrant, self._plan.seconds)
        seconds = self._plan.seconds * row.seconds
        if entrant.load.tenants:
            crowd = self._crowds.get(entrant.server)
            if crowd is None:
                most = max(each.load.tenants for each in row.entrants)
                crowd = self._crowds[entrant.server] = Crowd(stage, entrant, most)
            return crowd.run(row.name, round_, entrant, seconds)
        return run_load(stage, row.name, round_, entrant, seconds)
