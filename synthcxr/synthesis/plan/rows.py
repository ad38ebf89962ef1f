"""Opening a plan, and its rows: id, seed, patient and condition of row n are functions of the config and of n."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field

from synthcxr.conditions import Condition
from synthcxr.data.dataset import Dataset
from synthcxr.errors import ConditionError, DatasetError, shown
from synthcxr.files import sha256_file
from synthcxr.synthesis.plan.counterfactual import Counterfactual, CounterfactualPlan
from synthcxr.synthesis.plan.grid import BalancedPlan, DecorrelatedPlan, Grid
from synthcxr.synthesis.plan.manifest import Copied, CopyPlan
from synthcxr.synthesis.plan.permutation import Seeds
from synthcxr.synthesis.plan.prompts import Prompts, PromptsPlan

PlanConfig = Annotated[
    CopyPlan | BalancedPlan | DecorrelatedPlan | CounterfactualPlan | PromptsPlan, Field(discriminator="kind")
]


class Plan(Protocol):
    """What to make.

    Attributes:
        rows: how many.
        group: rows that belong together, one seed and one patient; rows [k * group, (k + 1) * group) are group k.
        contrasts: conditions that a model must have different words for, or the plan makes no sense with it.
    """

    @property
    def rows(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def contrasts(self) -> "list[Condition] | tuple[()]": ...
    def condition(self, number: int) -> Condition: ...


@dataclass(frozen=True)
class Row:
    """One planned picture; its seed is that of its group and of the attempt."""

    number: int
    id: str
    patient: str
    condition: Condition


class Rows:
    """The rows of a plan.

    Args:
        name: begins each id and patient.
    """

    def __init__(self, plan: Plan, name: str, seed: int) -> None:
        self.plan, self.name, self.seed_of = plan, name, Seeds(seed)

    def __len__(self) -> int:
        return self.plan.rows

    @property
    def groups(self) -> int:
        return self.plan.rows // self.plan.group

    def of_group(self, group: int) -> list[Row]:
        """The rows of one group, in order."""
        first, patient = group * self.plan.group, f"{self.name}-p{group:08d}"
        return [
            Row(number, f"{self.name}-{number:08d}", patient, self.plan.condition(number))
            for number in range(first, first + self.plan.group)
        ]


def open_plan(config: PlanConfig, seed: int, check: bool = True) -> Plan:
    """The plan of a configuration.

    Args:
        check: read all of a file of prompts once; workers needn't, after the one who sent them did.
    Raises:
        DatasetError, ConditionError: what it's made from is missing, wrong, or not what its hash says.
    """
    if isinstance(config, CopyPlan):
        return Copied(config, seed)
    if isinstance(config, CounterfactualPlan):
        return Counterfactual(config, open_plan(config.of, seed, check))
    if isinstance(config, PromptsPlan):
        return Prompts(config, check)
    return Grid(config, seed)


def pinned(config: PlanConfig) -> PlanConfig:
    """The configuration with the hashes of what it's made from, so that only the same is gone on with.

    Raises:
        DatasetError, ConditionError: it isn't there, or not what the given hash says.
    """
    if isinstance(config, CopyPlan):
        found = Dataset.open(config.dataset).hash
        if config.dataset_hash not in (None, found):
            raise DatasetError(f"{shown(config.dataset)} isn't the dataset whose hash is dataset_hash; give that one")
        return config.model_copy(update={"dataset_hash": found})
    if isinstance(config, PromptsPlan):
        found = _hash_of(config.file)
        if config.file_hash not in (None, found):
            raise ConditionError(f"{shown(config.file)} isn't the file whose sha256 is file_hash; give that one")
        return config.model_copy(update={"file_hash": found})
    if isinstance(config, CounterfactualPlan):
        return config.model_copy(update={"of": pinned(config.of)})
    return config


def _hash_of(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError as error:
        raise ConditionError(f"{shown(file)}: can't be read ({error.strerror}); give a file") from None
