"""Record of a search: its rows in memory, and search.json, written anew after each change."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loupe import __version__
from loupe.evaluate.search_results import (
    FILE,
    BackboneAtHand,
    Restrictions,
    SearchedCandidate,
    SearchResults,
    SpentSeconds,
)
from loupe.search.candidate import Candidate
from loupe.search.clock import Clock


@dataclass
class Record:
    """Rows of a search, in the order in which candidates were tried.

    Attributes:
        folder: folder of the delivered run, which holds search.json.
        facts: values of search.json that do not change.
        order: names of all candidates, in the order of the plan.
    """

    folder: Path
    clock: Clock
    facts: Mapping[str, Any]
    order: list[str] = field(default_factory=list)
    rows: dict[str, SearchedCandidate] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    delivered: str | None = None
    why: str = ""
    meaning: str = ""
    more: tuple[str, ...] = ()
    next: str | None = None
    start_seconds: float = 0.0
    candidates_end_seconds: float | None = None
    reserved_seconds: float = 0.0

    def plan(self, candidate: Candidate) -> None:
        """Add a candidate that may be tried; one that is there keeps its row."""
        if candidate.name in self.rows:
            return
        self.order.append(candidate.name)
        self.rows[candidate.name] = SearchedCandidate(
            name=candidate.name,
            kind=candidate.kind,
            title=candidate.title,
            settings=candidate.settings,
            flop=candidate.flop,
            status="planned",
        )

    def change(self, name: str, **values: Any) -> SearchedCandidate:
        """Change values of a row, and write the file."""
        if name not in self.tried and values.get("status") in {"finished", "stopped", "failed"}:
            self.tried.append(name)
        self.rows[name] = self.rows[name].model_copy(update=values)
        self.write("running")
        return self.rows[name]

    def strongest(self, most: int) -> tuple[SearchedCandidate, ...]:
        """Finished candidates that may be delivered and have a run, by their validation log loss; at most so many."""
        rows = [row for row in self.rows.values() if row.status == "finished" and row.judged and row.run]
        allowed = [row for row in rows if row.reason is None and row.kind != "blend"]
        return tuple(sorted(allowed, key=lambda row: row.judged.log_loss if row.judged else 0.0)[:most])

    def note(self, name: str, *, expected_seconds: float | None) -> None:
        """Note the expected time of a candidate that was not begun."""
        if self.rows[name].status == "planned":
            self.rows[name] = self.rows[name].model_copy(update={"expected_seconds": expected_seconds})

    def write(self, state: str) -> SearchResults:
        """Write search.json, and return its content."""
        self.folder.mkdir(parents=True, exist_ok=True)
        results = self.results(state)
        results.write(self.folder / FILE)
        return results

    def results(self, state: str) -> SearchResults:
        """Content of search.json."""
        spent = self.clock.spent
        end = self.candidates_end_seconds
        seconds = SpentSeconds(
            start=self.start_seconds,
            candidates=max(0.0, (spent if end is None else end) - self.start_seconds),
            end=0.0 if end is None else max(0.0, spent - end),
            total=spent,
            reserved=self.reserved_seconds,
        )
        untried = [name for name in self.order if name not in self.tried]
        return SearchResults.model_validate(
            {
                **self.facts,
                "version": __version__,
                "name": self.folder.name,
                "state": state,
                "limit_seconds": self.clock.limit_seconds,
                "seconds": seconds,
                "order": tuple(self.order),
                "candidates": tuple(self.rows[name] for name in [*self.tried, *untried]),
                "delivered": self.delivered,
                "why": self.why,
                "meaning": self.meaning,
                "more": self.more,
                "next": self.next,
            }
        )


def facts(
    *,
    dataset: str,
    command: str,
    environment: Mapping[str, Any],
    seed: int,
    images: Mapping[str, int],
    classes: int,
    at_hand: tuple[BackboneAtHand, ...],
    restrictions: Restrictions,
) -> dict[str, Any]:
    """Values of search.json that do not change during a search."""
    return {
        "dataset": dataset,
        "command": command,
        "environment": dict(environment),
        "seed": seed,
        "images": dict(images),
        "classes": classes,
        "at_hand": at_hand,
        "restrictions": restrictions,
    }
