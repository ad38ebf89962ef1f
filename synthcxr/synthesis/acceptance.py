"""What the screen let through, condition by condition: counted from finished shards, one after the other."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from synthcxr.conditions import Condition, FindingState, finding_phrase
from synthcxr.config import Config
from synthcxr.data.origin import Acceptance
from synthcxr.data.record import records_of
from synthcxr.data.shard import Part


class Result(Config):
    """What came of a run: rows planned, images kept, pictures drawn for them, and why others weren't kept."""

    model_hash: str
    planned: int
    images: int
    drawn: int
    given_up: int
    failed: dict[str, int]
    acceptance: tuple[Acceptance, ...]
    unseen: dict[str, int]


class Tally:
    """Adds up parts; memory grows with the rows given up, which are listed, and with nothing else."""

    def __init__(self, model_hash: str, planned: int) -> None:
        self.model_hash, self.planned = model_hash, planned
        self.given_up: list[dict[str, Any]] = []
        self._failed: Counter[str] = Counter()
        self._unseen: Counter[str] = Counter()
        self._counts: dict[str, Counter[str]] = {"any": Counter()}  # also of a run without a row

    def add(self, part: Part) -> None:
        """Count a finished shard: its rows passed; its notes tell of rows that were drawn more often, or given up."""
        for record in records_of(part.table):
            self._count(record.condition, asked=1, accepted=1, drawn=1)
        for note in part.notes:
            if "unseen" in note:
                self._unseen.update(note["unseen"])
                continue
            self._failed.update(check for attempt in note["attempts"] if (check := attempt["failed"]))
            drawn = len(note["attempts"])
            condition = Condition.model_validate(note["condition"])
            if note["given_up"]:
                self.given_up.append(note)
                self._count(condition, asked=1, given_up=1, drawn=drawn)
            else:
                self._count(condition, drawn=drawn)

    def result(self) -> Result:
        """The totals; a row a level of each attribute; and one a finding at each level of the other attributes."""
        rows = [
            Acceptance(condition=level, **{name: counts[name] for name in ("asked", "accepted", "given_up", "drawn")})
            for level, counts in sorted(self._counts.items(), key=lambda item: (item[0].count(": "), item[0]))
        ]
        return Result(
            model_hash=self.model_hash, planned=self.planned, images=rows[0].accepted, drawn=rows[0].drawn,
            given_up=rows[0].given_up, failed=dict(sorted(self._failed.items())), acceptance=tuple(rows),
            unseen=dict(sorted(self._unseen.items())),
        )  # fmt: skip

    def given_up_lines(self) -> bytes:
        """The rows that never passed, a JSON line each, by id."""
        lines = (json.dumps(note, ensure_ascii=False) + "\n" for note in sorted(self.given_up, key=lambda n: n["id"]))
        return "".join(lines).encode()

    def _count(self, condition: Condition, **counts: int) -> None:
        for level in levels(condition):
            self._counts.setdefault(level, Counter()).update(counts)


def levels(condition: Condition) -> Iterator[str]:
    """What a condition counts for: any; each of its findings, sex, race, view, and the ten years of its age; and each
    finding together with each of the others, since a screen may be hard on the women with an effusion alone."""
    findings = [
        f"finding: {finding_phrase(finding, FindingState(state=state.state))}"
        for finding, state in condition.findings.items()
    ]
    others = [f"{name}: {value}" for name in ("sex", "race", "view") if (value := getattr(condition, name))]
    if condition.age is not None:
        first = condition.age // 10 * 10
        others.append(f"age: {first} to {first + 9}")
    yield from ("any", *findings, *others)
    yield from (f"{finding}, {other}" for finding in findings for other in others)
