"""`synthcxr evaluate`: synthetic DATASETs against a real one, into result.json and a report that needs nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from synthcxr.data.dataset import Dataset
from synthcxr.errors import DatasetError, RunError, shown
from synthcxr.evaluation.appearance import APPEARANCE, spectra
from synthcxr.evaluation.compare import Comparison, compare
from synthcxr.evaluation.config import EvaluateConfig
from synthcxr.evaluation.diversity import kind_of, ms_ssim, pairs_within, similarity_within
from synthcxr.evaluation.features import appearance_extractor, squares
from synthcxr.evaluation.fidelity import METRICS
from synthcxr.evaluation.judged import alignment_lines, control_lines, fairness_lines, image_text_lines
from synthcxr.evaluation.part import Part, Reader, prompt_of
from synthcxr.evaluation.report import html
from synthcxr.evaluation.result import Input, Judged, Line, Result, line
from synthcxr.evaluation.scores import needed
from synthcxr.evaluation.sheets import Sheet, sheets
from synthcxr.files import write_text
from synthcxr.runs import Run, environment

REPORT = "report.html"
MOST_PAIRS = 300  # whose similarity is measured


def run(config: EvaluateConfig, fresh: bool = False) -> Result:
    """Measure, and write result.json and report.html into `config.output`; a finished run is left as it is.

    Raises:
        DatasetError: no dataset, one without the images that are needed, or real ones posing as synthetic.
        ModelError: there's no such extractor or judge.
        RunError: the output holds another run, or one of datasets that have changed since.
        UserError: what the extra [eval] installs isn't there.
    """
    needed()
    real, made = Dataset.open(config.real), [Dataset.open(path) for path in config.synthetic]
    train = Dataset.open(config.train) if config.train else None
    _check_origins(config, real, made)
    folder = Run.open(config.output, config, "evaluate", fresh)
    hashes = [dataset.hash for dataset in (real, *made, *([train] if train else []))]
    if folder.finished:
        result = Result.model_validate(folder.result)
        before = [given.manifest_sha256 for given in _inputs(result)]
        if before != hashes:
            raise RunError(
                f"{shown(config.output)} tells of datasets that have changed; give another output or --fresh"
            )
        return result
    reader = Reader(config)
    part = reader.part(real, config.split, config.real.name)
    trained_on = reader.part(train, config.train_split, config.train.name) if train else None
    fakes = [reader.part(dataset, None, name) for dataset, name in zip(made, _names(config), strict=True)]
    result = Result(
        real=_input("real", part), train=_input("train", trained_on) if trained_on else None,
        judged=tuple(_judge(config, reader, part, fake) for fake in fakes),
        extractor=reader.extractor.name, judge=reader.judge.name if reader.judge else None,
        image_text=reader.image_text.name if reader.image_text else None, size=config.size, environment=environment(),
    )  # fmt: skip
    drawn: dict[str, list[Sheet]] = {
        fake.name: sheets(part.images(), fake.images(), trained_on.images() if trained_on else None, config.seed)
        for fake in fakes
    }
    curves = {
        name: spectra(one.appearance).mean(0) for name, one in (("real", part), *((f.name, f) for f in fakes))
        if len(one.sharp)
    }  # fmt: skip
    write_text(config.output / REPORT, html(result, drawn, curves))
    folder.finish(result.model_dump(mode="json"))
    return result


def _judge(config: EvaluateConfig, reader: Reader, real: Part, fake: Part) -> Judged:
    """All that is measured of one synthetic dataset."""
    lines, left_out = [], []
    name = reader.extractor.name
    for section, metrics, extractor, a, b in (
        ("fidelity", METRICS, name, real.rows(), fake.rows()),
        ("appearance", APPEARANCE, appearance_extractor().name, real.appearances(), fake.appearances()),
    ):
        told = Comparison(section, metrics, extractor, config.least, config.replicates, config.seed)
        if not min(len(a), len(b)):
            left_out.append(f"{section}: no {'real' if not len(a) else 'synthetic'} images of {config.size} px or more")
            continue
        found, missing = compare(a, b, told)
        lines += found
        left_out += missing
    found, missing = _diversity(config, real, fake)
    lines, left_out, matrix = [*lines, *found], [*left_out, *missing], None
    if fake.readings is None or real.readings is None:
        left_out.append("alignment, control, fairness: the model has no classifier to judge")
    else:
        judge = reader.judge.name
        lines += alignment_lines(judge, real, fake, config.seed)
        found, missing, matrix = control_lines(judge, fake, config.seed)
        fair, unfair = fairness_lines(judge, real, fake, config.seed)
        lines, left_out = [*lines, *found, *fair], [*left_out, *missing, *unfair]
    if fake.pairs is None or real.pairs is None:
        left_out.append("alignment with words: the model has no image-text model")
    else:
        lines += image_text_lines(reader.image_text.name, real, fake, config.seed)
    return Judged(dataset=_input("synthetic", fake), lines=tuple(lines), entanglement=matrix, left_out=tuple(left_out))


def _diversity(config: EvaluateConfig, real: Part, fake: Part) -> tuple[list[Line], list[str]]:
    """Similarity of pictures of one prompt, beside that of real pictures of different patients of one kind."""
    told = []
    for part, synthetic in ((fake, True), (real, False)):
        records = [part.records[row] for row in part.sharp]
        keys = [prompt_of(record) if synthetic else kind_of(record) for record in records]
        units = [record.id if synthetic else record.patient for record in records]
        pairs = pairs_within(keys, units, MOST_PAIRS, config.seed)
        if len(pairs) < config.least:
            which = "pictures of one prompt" if synthetic else "patients of one kind"
            return [], [f"diversity: {len(pairs)} pairs of {which} are fewer than {config.least}"]
        rows = [row for pair in pairs for row in pair]
        images = list(squares(part.dataset, [records[row] for row in rows], config.size))
        values = ms_ssim(zip(images[::2], images[1::2], strict=True))
        names = np.array([str(keys[one]) for one, _ in pairs])
        told.append(similarity_within("MS-SSIM within a prompt", values, names, config.seed))
    return [line("diversity", told[0], "pixels", reference=told[1], against="pairs of real images")], []


def _check_origins(config: EvaluateConfig, real: Dataset, made: Sequence[Dataset]) -> None:
    if real.info["origin"] != "real":
        raise DatasetError(f"real = {shown(config.real)} holds synthetic images; give a real dataset")
    for path, dataset in zip(config.synthetic, made, strict=True):
        if dataset.info["origin"] != "synthetic":
            raise DatasetError(f"synthetic = {shown(path)} holds real images; give a synthetic dataset")


def _names(config: EvaluateConfig) -> list[str]:
    """Names of the synthetic datasets: their folders', numbered where they are the same."""
    names = [path.name for path in config.synthetic]
    return [name if names.count(name) == 1 else f"{name} ({place + 1})" for place, name in enumerate(names)]


def _input(role: Any, part: Part) -> Input:
    return Input(
        role=role, name=part.name, manifest_sha256=part.dataset.hash, images=len(part.records),
        patients=len({record.patient for record in part.records}),
        models=tuple(sorted({record.model for record in part.records if record.model})),
    )  # fmt: skip


def _inputs(result: Result) -> list[Input]:
    return [result.real, *(judged.dataset for judged in result.judged), *([result.train] if result.train else [])]
