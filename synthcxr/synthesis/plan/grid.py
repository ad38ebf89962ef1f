"""Plans over a grid of cells, each as often as any other: `balanced`; and `decorrelated`, with 2 x 2 findings."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from synthcxr.conditions import MAX_AGE, Condition, FindingState
from synthcxr.config import Config
from synthcxr.errors import ConfigError
from synthcxr.runs import derive_seed
from synthcxr.vocabulary import Finding, Race, Sex, View, parse_finding


def _as_findings(value: Any) -> Any:
    """What `Condition.findings` takes, or the name of one finding that is there."""
    return Condition(findings=[value] if isinstance(value, str) else value).findings


Findings = Annotated[dict[Finding, FindingState], BeforeValidator(_as_findings)]
Ages = Annotated[tuple[int, int], Field(description="first and last year, both included")]
Named = Annotated[Finding, BeforeValidator(parse_finding)]


class Axes(Config):
    """The axes of a grid beside its findings; an axis that isn't given is left unsaid in the prompts."""

    rows: int = Field(gt=0)
    sex: tuple[Sex, ...] = ()
    age: tuple[Ages, ...] = Field((), description="ranges; the year within one is drawn")
    race: tuple[Race, ...] = ()
    view: tuple[View, ...] = ()

    @model_validator(mode="after")
    def _ages_are_ranges(self) -> "Axes":
        for first, last in self.age:
            if not 0 <= first <= last <= MAX_AGE:
                raise ConfigError(f"age = [{first}, {last}] must be a range of years within 0 to {MAX_AGE}")
        return self


class BalancedPlan(Axes):
    """Every combination of findings, sex, age range, race and view as often as any other."""

    kind: Literal["balanced"]
    findings: tuple[Findings, ...] = Field(min_length=1, description="each a finding, or several that go together")


class DecorrelatedPlan(Axes):
    """A finding and what it's confounded with (a device), there and absent, in all four cells alike, over a grid.

    A pneumothorax is mostly seen with a chest tube: who learns from such images learns the tube.
    """

    kind: Literal["decorrelated"]
    finding: Named
    confounder: Named

    @model_validator(mode="after")
    def _are_two(self) -> "DecorrelatedPlan":
        if self.finding == self.confounder or Finding.NO_FINDING in (self.finding, self.confounder):
            raise ConfigError("finding and confounder must be two different findings, neither of them 'No Finding'")
        return self


class Grid:
    """Row n is of cell n modulo the cells, so that counts differ by one at most, in any stretch of rows."""

    group = 1

    def __init__(self, config: BalancedPlan | DecorrelatedPlan, seed: int) -> None:
        self.rows, self._seed, self._ages = config.rows, seed, config.age
        self._findings = config.findings if isinstance(config, BalancedPlan) else _four_cells(config)
        self.contrasts = [] if isinstance(config, BalancedPlan) else [Condition(findings=f) for f in self._findings]
        self._axes = [config.sex, range(len(config.age)), config.race, config.view]

    def condition(self, number: int) -> Condition:
        """What row `number` is to show."""
        number_of_cell, place = divmod(number, len(self._findings))
        chosen = []
        for axis in self._axes:
            number_of_cell, index = divmod(number_of_cell, max(1, len(axis)))
            chosen.append(axis[index] if axis else None)
        sex, age_range, race, view = chosen
        age = None
        if age_range is not None:
            first, last = self._ages[age_range]
            age = first + derive_seed(self._seed, f"age/{number}") % (last - first + 1)
        return Condition(findings=self._findings[place], sex=sex, age=age, race=race, view=view)


def _four_cells(config: DecorrelatedPlan) -> list[dict[Finding, FindingState]]:
    states = [FindingState(state=state) for state in ("present", "absent")]
    return [{config.finding: one, config.confounder: other} for other in states for one in states]
