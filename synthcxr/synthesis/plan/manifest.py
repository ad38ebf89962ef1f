"""The `copy` plan: the joint distribution of conditions in a real DATASET."""

from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from typing import Literal

from pydantic import Field

from synthcxr.conditions import Condition
from synthcxr.config import Config
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Split, records_of
from synthcxr.errors import DatasetError, shown
from synthcxr.synthesis.plan.permutation import Permutation


class CopyPlan(Config):
    """As many rows of each condition (findings, age, sex, race and view together) as the images of a dataset have.

    Weights of a curated dataset count. Free text is left out: it's what a model remembers single patients by.
    """

    kind: Literal["copy"]
    rows: int = Field(gt=0)
    dataset: Path
    split: Split = "train"
    dataset_hash: str | None = Field(None, description="refuse a dataset whose manifest has another hash")


class Copied:
    """Quotas, shuffled: a condition of weight w comes floor or ceil of rows * w / all weights times (one a bin)."""

    group, contrasts = 1, ()

    def __init__(self, config: CopyPlan, seed: int) -> None:
        dataset = Dataset.open(config.dataset)
        weights: dict[str, float] = defaultdict(float)
        for record in records_of(dataset.table):
            if record.split == config.split:
                weights[record.condition.model_copy(update={"text": None}).model_dump_json()] += record.weight
        if not weights:
            raise DatasetError(
                f"{shown(config.dataset)} has no image in the split {config.split!r}; give another split"
            )
        self.rows = config.rows
        self._conditions = list(weights)
        self._bounds = list(accumulate(weights.values()))
        self._order = Permutation(config.rows, f"copy/{seed}")

    def condition(self, number: int) -> Condition:
        """What row `number` is to show."""
        place = (self._order(number) + 0.5) / self.rows * self._bounds[-1]
        index = min(bisect_right(self._bounds, place), len(self._bounds) - 1)
        return Condition.model_validate_json(self._conditions[index])
