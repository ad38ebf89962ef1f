"""The `counterfactual` plan: groups of rows with the same seed, in which one attribute alone changes."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from synthcxr.conditions import Condition, FindingState, parse_finding
from synthcxr.config import Config
from synthcxr.errors import ConditionError, ConfigError, did_you_mean
from synthcxr.synthesis.plan.grid import BalancedPlan
from synthcxr.synthesis.plan.manifest import CopyPlan
from synthcxr.vocabulary import Finding

ATTRIBUTES = ("sex", "age", "race", "view")

Base = Annotated[BalancedPlan | CopyPlan, Field(discriminator="kind")]


class CounterfactualPlan(Config):
    """Each row of another plan, once for each value of an attribute, from the same seed.

    A group is one patient, is screened as a whole, and never parted.
    """

    kind: Literal["counterfactual"]
    of: Base = Field(description="the plan whose rows become groups")
    attribute: str = Field(description="sex, age, race, view, or a finding")
    values: tuple[str | int | dict[str, str] | None, ...] = Field(
        min_length=2, description="of the attribute; a finding's are states, or {state, side, severity}; null: unsaid"
    )

    @model_validator(mode="after")
    def _makes_conditions(self) -> "CounterfactualPlan":
        changed = [change(Condition(), self.attribute, value).model_dump_json() for value in self.values]
        if len(set(changed)) < len(changed):
            raise ConfigError(f"values = {list(self.values)} must differ from each other")
        return self


class Counterfactual:
    """Row n is variant n modulo the variants of group n // variants."""

    def __init__(self, config: CounterfactualPlan, base: Any) -> None:
        self._base, self._attribute, self._values = base, config.attribute, config.values
        self.group = len(config.values)
        self.rows = base.rows * self.group
        self.contrasts = [self.condition(number) for number in range(self.group)]

    def condition(self, number: int) -> Condition:
        """What row `number` is to show."""
        group, variant = divmod(number, self.group)
        return change(self._base.condition(group), self._attribute, self._values[variant])


def change(condition: Condition, attribute: str, value: Any) -> Condition:
    """The condition with another value of one attribute; None takes it out. A finding that is there ends "No Finding".

    Raises:
        ConditionError: no such attribute, or a value that it can't have.
    """
    fields = condition.model_dump()
    if attribute in ATTRIBUTES:
        return Condition(**{**fields, attribute: value})
    try:
        finding = parse_finding(attribute)
    except ConditionError:
        near = did_you_mean(attribute, [*ATTRIBUTES, *Finding])
        raise ConditionError(f"attribute = {attribute!r} must be {', '.join(ATTRIBUTES)} or a finding{near}") from None
    findings = {name: state for name, state in condition.findings.items() if name != finding}
    if value is not None:
        findings[finding] = FindingState.model_validate(value)
        if findings[finding].state == "present" and finding != Finding.NO_FINDING:
            findings.pop(Finding.NO_FINDING, None)
    return Condition(**{**fields, "findings": findings})
