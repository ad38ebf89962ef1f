"""`synthcxr audit`: is what a model makes a copy of what it was trained on? Into result.json, a report, the model."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from synthcxr.conditions import to_prompt
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.errors import DatasetError, RunError, shown
from synthcxr.evaluation.audit_report import html
from synthcxr.evaluation.audit_result import AuditResult, Pictured, Suspected, named
from synthcxr.evaluation.config import AuditConfig
from synthcxr.evaluation.feature_set import FeatureSet, one_a_patient
from synthcxr.evaluation.features import features_of, squares
from synthcxr.evaluation.membership import Known, membership
from synthcxr.evaluation.part import chosen, prompt_of
from synthcxr.evaluation.privacy import Audit, audit, copy_rate
from synthcxr.evaluation.result import Input
from synthcxr.evaluation.scores import Score
from synthcxr.evaluation.views import KINDS, View, copies_of, feature_set, prepare, views
from synthcxr.files import write_text
from synthcxr.generate import Generator, Request
from synthcxr.model.audit import AuditRecord
from synthcxr.model.folder import Model, bind_audit, load_model
from synthcxr.runs import Run, derive_seed, environment

log = logging.getLogger(__name__)

REPORT = "report.html"
SHOWN = 24  # suspects in the report


class Audited:
    """The images of an audit, as its views see them."""

    def __init__(self, config: AuditConfig, model: Model | None):
        self.config, self.views = config, views(model)
        folders = (config.train, config.held_out, config.synthetic)
        self.datasets = [Dataset.open(folder) for folder in folders]
        # Of the training images none is left out: a copy of it would be missed.
        most = (len(self.datasets[0]), config.images, config.images)
        splits = (config.train_split, config.held_out_split, None)
        self.records = [
            chosen(dataset, split, count, config.seed)
            for dataset, split, count in zip(self.datasets, splits, most, strict=True)
        ]
        self._check(model)
        self.train_patients, self.held_out_patients = (
            np.array([record.patient for record in records]) for records in self.records[:2]
        )
        self.prompts = np.array([prompt_of(record) for record in self.records[2]])

    def sets(self) -> list[FeatureSet]:
        """Every view of everything, planted copies included; computed once and kept."""
        config = self.config
        rows = np.random.default_rng(derive_seed(config.seed, "planted")).permutation(len(self.records[0]))
        sources = list(squares(self.datasets[0], [self.records[0][row] for row in rows[: config.planted]], config.size))
        copies = {kind: copies_of(sources, kind, config.seed) for kind in KINDS}
        return [
            feature_set(
                view,
                *(self._rows(view, place) for place in range(3)),
                [(kind, view.extractor.read(images)) for kind, images in copies.items()],
            )
            for view in self.views
        ]

    def instead(self, sets: Sequence[FeatureSet], images: Sequence[np.ndarray]) -> list[FeatureSet]:
        """The same sets with other synthetic images, and nothing planted."""
        told = []
        for view, features in zip(self.views, sets, strict=True):
            prepared = prepare(view, self._rows(view, 0))
            told.append(replace(features, synthetic=prepared(view.extractor.read(images)), planted=()))
        return told

    def known(self, place: int, most: int) -> list[Known]:
        """One image a patient of the training or held-out records, at random."""
        patients = (self.train_patients, self.held_out_patients)[place]
        records = [self.records[place][row] for row in one_a_patient(patients, self.config.seed)[:most]]
        images = squares(self.datasets[place], records, self.config.size)
        return [
            Known(pixels, record.condition, min(record.native_width, record.native_height))
            for pixels, record in zip(images, records, strict=True)
        ]

    def inputs(self) -> tuple[Input, ...]:
        roles = ("train", "held_out", "synthetic")
        return tuple(
            Input(
                role=role, name=dataset.path.name, manifest_sha256=dataset.hash, images=len(records),
                patients=len({record.patient for record in records}),
                models=tuple(sorted({record.model for record in records if record.model})),
            )
            for role, dataset, records in zip(roles, self.datasets, self.records, strict=True)
        )  # fmt: skip

    def _rows(self, view: View, place: int) -> np.ndarray:
        config = self.config
        return features_of(view.extractor, self.datasets[place], self.records[place], config.size, config.cache)

    def _check(self, model: Model | None) -> None:
        made = self.datasets[2]
        if made.info["origin"] != "synthetic":
            raise DatasetError(f"synthetic = {shown(made.path)} holds real images; give a synthetic dataset")
        others = {record.model for record in self.records[2]} - {model.hash if model else None}
        if model and others:
            raise DatasetError(
                f"synthetic = {shown(made.path)} was made by model {str(others.pop())[:12]}, not by {model.hash[:12]}, "
                "which is audited; give what that one made"
            )


def run(config: AuditConfig, fresh: bool = False) -> AuditResult:
    """Audit, and write result.json and report.html into `config.output`; a finished run is left as it is.

    Raises:
        AuditError, NotComparable: what was given can't be audited.
        DatasetError: no dataset, or pictures that another model made.
        ModelError: no such model, or one that the result can't be written into.
        RunError: the output holds another run, or one of other datasets or weights.
    """
    model = load_model(None if config.model == "embedded" else config.model) if config.model else None
    audited = Audited(config, model)
    folder = Run.open(config.output, config, "audit", fresh)
    inputs = audited.inputs()
    if folder.finished:
        result = AuditResult.model_validate(folder.result)
        if result.inputs != inputs or result.model != (model.hash if model else None):
            raise RunError(f"{shown(config.output)} tells of other data or weights; give another output or --fresh")
        return result
    sets = audited.sets()
    prompts = audited.prompts if len(set(audited.prompts)) < len(audited.prompts) else None
    found = audit(sets, audited.train_patients, audited.held_out_patients, prompts, config.settings)
    members, failures, worst = _membership(config, audited, model), list(found.failures), None
    failures += [
        f"{score.name}: AUC {score.value:.2f}, above {config.settings.max_membership:g}; training images are recognised"
        for score in members if score.low > config.settings.max_membership
    ]  # fmt: skip
    if model and config.worst_prompts:
        worst = _worst(config, audited, sets, model)
        if worst.low > 0:
            failures.append(f"training prompts: {worst.value:.1%} of their pictures are copies beyond chance")
    result = _result(config, audited, model, found, members, worst, failures)
    write_text(config.output / REPORT, html(result, _pictures(audited, result.suspects)))
    if model and config.bind:
        _bind(config, result, members)
    folder.finish(result.model_dump(mode="json"))
    return result


def _membership(config: AuditConfig, audited: Audited, model: Model | None) -> list[Score]:
    if model is None or not config.membership_images:
        return []
    members, others = (audited.known(place, config.membership_images) for place in (0, 1))
    return membership(model, members, others, derive_seed(config.seed, "membership") % 2**31)


def _worst(config: AuditConfig, audited: Audited, sets: Sequence[FeatureSet], model: Model) -> Score:
    """The excess copy rate of what training prompts bring back: where copies are likeliest."""
    rows = one_a_patient(audited.train_patients, derive_seed(config.seed, "worst case"))[: config.worst_prompts]
    records = [audited.records[0][row] for row in rows]
    requests = [
        Request(condition=record.condition, seed=derive_seed(config.seed, f"{record.id}/{number}"))
        for record in records for number in range(config.worst_seeds)
    ]  # fmt: skip
    drawn = Generator(model, config.sampler)(requests)
    images = [generated.pixels for generated in drawn]
    prompts = np.repeat([to_prompt(record.condition) for record in records], config.worst_seeds)
    people = (audited.train_patients, audited.held_out_patients)
    return copy_rate(
        "excess copy rate, training prompts", audited.instead(sets, images), *people, prompts, config.settings
    )


def _result(
    config: AuditConfig, audited: Audited, model: Model | None, found: Audit, members: Sequence[Score],
    worst: Score | None, failures: Sequence[str],
) -> AuditResult:  # fmt: skip
    by_set = [s for one in found.sets for s in (one.excess, one.nearness, one.data_copying, one.authenticity)]
    scores = [found.told_apart, *found.controls, *by_set, *members, *([worst] if worst else [])]
    train, _, made = audited.records
    suspects = tuple(
        Suspected(synthetic=made[s.synthetic].id, train=train[s.train].id, features=s.features, p=s.p)
        for s in found.suspects
    )
    return AuditResult(
        failures=tuple(failures), inputs=audited.inputs(), model=model.hash if model else None,
        alpha=config.settings.alpha, excess=named(found.excess), fresh=found.fresh, listable=found.listable,
        held_out_patients=len(set(audited.held_out_patients)), numbers=tuple(map(named, scores)), suspects=suspects,
        extractors=tuple(view.extractor.name for view in audited.views), environment=environment(),
    )  # fmt: skip


def _pictures(audited: Audited, suspects: Sequence[Suspected]) -> list[Pictured]:
    """The most suspect images beside the training images they're near to."""
    by_id = [{record.id: record for record in records} for records in (audited.records[2], audited.records[0])]

    def pixels(place: int, record: Record) -> np.ndarray:
        return next(squares(audited.datasets[place], [record], audited.config.size))

    return [
        Pictured(suspect, pixels(2, by_id[0][suspect.synthetic]), pixels(0, by_id[1][suspect.train]))
        for suspect in suspects[:SHOWN]
    ]


def _bind(config: AuditConfig, result: AuditResult, members: Sequence[Score]) -> None:
    path = Path(config.model)
    if not path.is_dir():
        return log.warning("the result isn't written into the model: %s is no folder", config.model)
    excess, hashes = result.excess, {given.role: given.manifest_sha256 for given in result.inputs}
    record = AuditRecord(
        weights=result.model, **hashes, alpha=result.alpha, excess=excess.value, excess_low=excess.low,
        excess_high=excess.high, membership=max((score.value for score in members), default=None), images=excess.n,
        held_out_patients=result.held_out_patients, failures=result.failures,
    )  # fmt: skip
    bind_audit(path, record)
