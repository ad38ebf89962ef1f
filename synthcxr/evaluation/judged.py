"""What a judge's readings say of a synthetic dataset, beside what they say of the real one, as lines of a result."""

from collections.abc import Sequence

import numpy as np

from synthcxr.data.curate.columns import UNKNOWN, column
from synthcxr.data.record import Record
from synthcxr.evaluation.alignment import alignment
from synthcxr.evaluation.control import counterfactual_pairs, entanglement
from synthcxr.evaluation.fairness import Fairness, operating_point, subgroup_auc, underdiagnosis
from synthcxr.evaluation.image_text import similarity
from synthcxr.evaluation.part import Part
from synthcxr.evaluation.result import Line, Matrix, line
from synthcxr.evaluation.scores import Score
from synthcxr.model.classifier import FINDINGS

CELL = ("sex", "age", "race")  # a group of people: levels of what is known of them


def alignment_lines(judge: str, real: Part, fake: Part, seed: int) -> list[Line]:
    """Does the judge see what was asked; the ceiling is how well it sees what real images are labelled with."""
    ceiling = {score.name: score for score in _alignment(real, seed)}
    return [
        line("alignment", score, judge, reference=ceiling.get(score.name), against="judge on real images")
        for score in _alignment(fake, seed)
    ]


def _alignment(read: Part, seed: int) -> list[Score]:
    return alignment(read.readings, [record.condition for record in read.records], read.units, seed)


def image_text_lines(name: str, real: Part, fake: Part, seed: int) -> list[Line]:
    """How well pictures fit their words; the ceiling is how well real images fit theirs."""
    ceiling = {score.name: score for score in similarity(real.pairs, real.units, seed)}
    return [
        line("alignment", score, name, reference=ceiling.get(score.name), against="real images with their own words")
        for score in similarity(fake.pairs, fake.units, seed)
    ]


def control_lines(judge: str, fake: Part, seed: int) -> tuple[list[Line], list[str], Matrix | None]:
    """What a change of one attribute moves, of datasets that hold counterfactual groups."""
    groups = np.array([record.patient for record in fake.records])
    found = entanglement(fake.readings, counterfactual_pairs(fake.records), groups, seed)
    if found is None:
        return [], ["control: no ten pairs of a group and seed that differ in one attribute"], None
    effect = tuple(tuple(map(float, row)) for row in found.effect)
    matrix = Matrix(changed=found.changed, measured=found.measured, effect=effect, pairs=found.pairs)
    return [line("control", score, judge) for score in found.scores], [], matrix


def fairness_lines(judge: str, real: Part, fake: Part, seed: int) -> tuple[list[Line], list[str]]:
    """Is the judge as good for pictures of everyone, and are they drawn as well: by cells of sex, age and race.

    What is asked for is any finding; the operating point calls as many healthy as are.
    """
    lines, left_out, of_real = [], [], _fairness(real, seed)[0]
    ceilings = {
        score.name: score for quantity in of_real for score in (*quantity.groups, quantity.gap, quantity.spread)
    }
    found, missing = _fairness(fake, seed)
    for quantity in found:
        what = quantity.gap.name.removeprefix("gap, ")
        for score in (*quantity.groups, quantity.gap, quantity.spread):
            lines.append(
                line("fairness", score, judge, reference=ceilings.get(score.name), against="judge on real images")
            )
        if quantity.left_out:
            cells = ", ".join(f"{name} {count}" for name, count in quantity.left_out.items())
            left_out.append(f"fairness, {what}: groups that are too small ({cells})")
    return lines, left_out + missing


def _fairness(read: Part, seed: int) -> tuple[list[Fairness], list[str]]:
    labelled = np.array([bool(record.condition.findings) for record in read.records])
    records = [record for record, known in zip(read.records, labelled, strict=True) if known]
    if not records:
        return [], ["fairness: no image is labelled with findings"]
    ill = np.array([bool(record.present & set(FINDINGS)) for record in records])
    called_ill = 1 - np.prod(1 - read.readings.findings[labelled], axis=1)
    groups, units = people(records), read.units[labelled]
    known = groups != ""
    told, there, groups, units = called_ill[known], ill[known], groups[known], units[known]
    found, missing = [], []
    for what, measure in (
        ("AUROC", lambda: subgroup_auc(told, there, groups, units, seed)),
        ("underdiagnosis", lambda: underdiagnosis(-told > operating_point(-told, there), there, groups, units, seed)),
    ):
        try:
            found.append(measure())
        except ValueError as error:
            missing.append(f"fairness, {what}: {error}")
    return found, missing


def people(records: Sequence[Record]) -> np.ndarray:
    """(n,) the cell of each: its known levels of sex, age and race, such as "female, 40-59"; "" where none is known."""
    columns = [column(records, name) for name in CELL]
    return np.array([
        ", ".join(c.levels[c.codes[row]] for c in columns if c.codes[row] != UNKNOWN) for row in range(len(records))
    ])  # fmt: skip
