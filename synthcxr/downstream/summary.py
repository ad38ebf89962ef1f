"""All cells of an experiment into its result: numbers, comparisons with real data alone, what is asserted of them."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from synthcxr.downstream.bench import Bench
from synthcxr.downstream.cell import Predictions
from synthcxr.downstream.config import DownstreamConfig
from synthcxr.downstream.inference import Estimate, holm, label_saving, label_saving_interval, over_seeds
from synthcxr.downstream.labels import values_of
from synthcxr.downstream.measure import (
    DROP,
    GAP,
    MACRO,
    UNCORRELATED,
    Key,
    Measured,
    measure,
    shortcut_of,
    underdiagnosis_of,
)
from synthcxr.downstream.result import Comparison, Family, FourCell, Label, Planted, Point, Protocol, Save
from synthcxr.downstream.subsets import CELLS
from synthcxr.errors import RunError
from synthcxr.evaluation.resampling import cluster_weights
from synthcxr.evaluation.result import Number
from synthcxr.runs import derive_seed

T = TypeVar("T")
Table = dict[Key, dict[tuple[str, str], Measured]]  # by metric and label
AUGMENTATION = "turned by up to 4 degrees, zoomed by up to 10%, shifted within that, contrast by 10%; not flipped"


class Summary:
    """Everything that is computed of an experiment.

    Args:
        seeds: predictions by arm, fraction and multiple, one a seed.
    """

    def __init__(self, config: DownstreamConfig, bench: Bench, seeds: Mapping[Key, Sequence[Predictions]]) -> None:
        self.config, self.bench, self.seeds = config, bench, seeds
        weights = cluster_weights(bench.test.patients, config.replicates, derive_seed(config.seed, "patients drawn"))
        self.table: Table = {}
        self.worst: dict[str, str] = {}
        self.left_out: list[str] = []
        self._cells: list[FourCell] = []
        for key, told in seeds.items():
            found = list(measure(bench, told, weights))
            if (fair := underdiagnosis_of(bench, told, weights)) is not None:
                found += fair[0]
                self.worst[shown_key(key)] = fair[1]
            if config.shortcut:
                areas, cells = shortcut_of(bench, config.shortcut, told, weights)
                found += areas
                self._cells += [_four_cell(key, cell, measured) for cell, measured in cells.items()]
            self.table[key] = {(one.metric, one.label): one for one in found}
        if not self.worst:
            self.left_out.append("underdiagnosis: fewer than two groups of sex and age have 20 ill test images")
        if config.seeds < 2:
            self.left_out.append("spread between seeds: there is one seed; intervals are of patients alone")

    def points(self) -> tuple[Point, ...]:
        """Every number of every arm."""
        return tuple(
            Point(
                arm=key[0], fraction=key[1], multiple=key[2], metric=one.metric, label=one.label,
                direction=one.direction, measured=_bounded(one),
                seeds=tuple(map(float, one.values)),
            )
            for key, row in self.table.items() for one in row.values()
        )  # fmt: skip

    def comparisons(self) -> tuple[Comparison, ...]:
        """Every arm less real data alone, in families whose p-values are adjusted together."""
        families: list[tuple[Family, str, list[str]]] = [
            ("macro AUROC", "AUROC", [MACRO]), ("AUROC by label", "AUROC", list(self.bench.labels)),
            ("underdiagnosis gap", GAP, ["all"]),
        ]  # fmt: skip
        if self.config.shortcut:
            families.append(("uncorrelated AUROC", UNCORRELATED, [self.config.shortcut.finding]))
        return tuple(one for family in families for one in self._family(*family))

    def _family(self, family: Family, metric: str, labels: Sequence[str]) -> list[Comparison]:
        found: list[tuple[Key, str, Measured, Estimate]] = []
        for key, (arm, fraction, multiple) in self._against_real():
            for label in labels:
                own, real = self.table[key].get((metric, label)), self.table["real", fraction, 0.0].get((metric, label))
                if own is not None and real is not None:
                    apart = over_seeds(own.values - real.values, own.draws - real.draws)
                    found.append(((arm, fraction, multiple), label, own, apart))
        adjusted = holm([apart.p for *_, apart in found])
        return [
            Comparison(
                family=family, arm=key[0], fraction=key[1], multiple=key[2], metric=metric, label=label,
                direction=own.direction, difference=_number(apart, own.n), p=apart.p, p_holm=p,
            )
            for (key, label, own, apart), p in zip(found, adjusted, strict=True)
        ]  # fmt: skip

    def _against_real(self) -> list[tuple[Key, Key]]:
        """Keys of other arms, each with the arm, fraction and multiple it's compared as: synthetic at all fractions."""
        told = []
        for key in self.table:
            for fraction in self.config.fractions if key[0] != "real" else ():
                if key[1] in (0.0, fraction):
                    told.append((key, (key[0], fraction, key[2])))
        return told

    def savings(self) -> tuple[Save, ...]:
        """How many real patients' labels the synthetic data is worth, by macro AUROC; needs two fractions."""
        fractions, wanted = self.config.fractions, ("AUROC", MACRO)
        if len(fractions) < 2:
            return ()
        real = [self.table["real", fraction, 0.0][wanted] for fraction in fractions]
        curve, draws = np.array([one.values.mean() for one in real]), np.array([one.draws for one in real])
        found = []
        for key, (arm, fraction, multiple) in self._against_real():
            own = self.table[key][wanted]
            saving = label_saving(fractions, curve, float(own.values.mean()), fraction)
            low, high = label_saving_interval(fractions, draws, own.draws, fraction, self.config.seed)
            low, high = min(low, saving.factor), max(high, saving.factor)
            found.append(
                Save(arm=arm, fraction=fraction, multiple=multiple, factor=saving.factor, low=low, high=high,
                     bound=saving.bound)
            )  # fmt: skip
        return tuple(found)

    def planted(self) -> Planted | None:
        """The shortcut's four cells: how many images each split has of them, and what was called rightly."""
        shortcut = self.config.shortcut
        if shortcut is None:
            return None
        counts, names = {}, (shortcut.finding, shortcut.confounder)
        for name, pool in {**self.bench.splits, **self.bench.synthetic}.items():
            finding, confounder = values_of(pool.records, names).T
            counts[name] = tuple(int(((finding == f) & (confounder == c)).sum()) for f, c in CELLS)
        return Planted(**shortcut.model_dump(), counts=counts, cells=tuple(self._cells))

    def labels(self) -> tuple[Label, ...]:
        """The labels, counted."""
        pools = self.bench.splits
        return tuple(
            Label(
                name=label,
                there={split: int((pool.labels[:, place] == 1).sum()) for split, pool in pools.items()},
                known={split: int((~np.isnan(pool.labels[:, place])).sum()) for split, pool in pools.items()},
            )
            for place, label in enumerate(self.bench.labels)
        )

    def protocol(self) -> Protocol:
        """What all classifiers have in common.

        Raises:
            RunError: they haven't: another number of steps, another size of batch, another start or other draws of
                augmentation for the same seed.
        """
        config, told = self.config, [one.told for seeds in self.seeds.values() for one in seeds]
        return Protocol(
            network=config.backbone or f"ResNet, {'-'.join(map(str, config.resnet.channels))} channels, fresh weights",
            parameters=same("parameters", [one.parameters for one in told]), size=config.size,
            steps=same("optimiser steps", [one.steps for one in told]),
            batch_size=same("images a batch", [one.batch_size for one in told]), augmentation=AUGMENTATION,
            schedule=f"AdamW, {config.training.learning_rate:g} after {config.training.warmup} steps, to 0 as a cosine",
            selection=f"best macro AUROC of {config.training.checks} checks on {len(self.bench.validate)} images of "
            f"{len(set(self.bench.validate.patients))} real validation patients",
            synthetic_share=config.training.synthetic_share,
            initial_weights={
                seed: same(f"initial weights of seed {seed}", [o.initial_weights for o in told if o.cell.seed == seed])
                for seed in range(config.seeds)
            },
            augmentation_draws={
                seed: same(f"augmentations of seed {seed}", [o.augmentation for o in told if o.cell.seed == seed])
                for seed in range(config.seeds)
            },
            classifiers=len(told),
        )  # fmt: skip


def same(what: str, values: Sequence[T]) -> T:
    """The value that all have.

    Raises:
        RunError: they differ.
    """
    if len(set(values)) != 1:
        raise RunError(f"{what} differ between classifiers ({', '.join(map(str, sorted(set(values), key=str)))})")
    return values[0]


def shown_key(key: Key) -> str:
    """Such as "mixed, 10%, 1x"."""
    arm, fraction, multiple = key
    return ", ".join([arm, *([f"{fraction:.4g}"] if fraction else []), *([f"{multiple:g}x"] if multiple else [])])


def _number(estimate: Estimate, n: int) -> Number:
    return Number(value=estimate.value, low=estimate.low, high=estimate.high, n=n)


def _bounded(one: Measured) -> Number:
    """A quantity's mean; all but a drop lie between 0 and 1, which Student's interval doesn't know."""
    number = _number(over_seeds(one.values, one.draws), one.n)
    if one.metric == DROP:
        return number
    return number.model_copy(update={"low": max(0.0, number.low), "high": min(1.0, number.high)})


def _four_cell(key: Key, cell: tuple[int, int], one: Measured) -> FourCell:
    return FourCell(
        arm=key[0], fraction=key[1], multiple=key[2], finding=bool(cell[0]), confounder=bool(cell[1]),
        right=_bounded(one),
    )  # fmt: skip
