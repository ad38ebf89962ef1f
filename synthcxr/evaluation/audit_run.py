"""`synthcxr audit`: is what a model makes a copy of what it was trained on? Into result.json, a report, the model."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from synthcxr.conditions import to_prompt
from synthcxr.data.corpus import corpus_images
from synthcxr.errors import DatasetError, RunError, shown
from synthcxr.evaluation.audit_report import html
from synthcxr.evaluation.audit_result import AuditResult, Pictured, Suspected, named
from synthcxr.evaluation.collected import Collected, collect
from synthcxr.evaluation.config import AuditConfig
from synthcxr.evaluation.faiss_search import faiss_module, nearest_by_faiss
from synthcxr.evaluation.feature_set import FeatureSet, one_a_patient
from synthcxr.evaluation.membership import Known, membership
from synthcxr.evaluation.neighbours import nearest
from synthcxr.evaluation.part import prompt_of
from synthcxr.evaluation.privacy import Audit, audit, check_people, copy_rate
from synthcxr.evaluation.result import Input
from synthcxr.evaluation.scores import Score, needed
from synthcxr.evaluation.views import KINDS, copies_of, feature_set, prepare, views
from synthcxr.files import write_text
from synthcxr.generate import Generator, Request
from synthcxr.model.audit import AuditRecord
from synthcxr.model.folder import Model, bind_audit, check_bindable, load_model
from synthcxr.model.precision import settled
from synthcxr.runs import Run, derive_seed, environment

log = logging.getLogger(__name__)

REPORT = "report.html"
SEARCHES = {"blockwise": nearest, "faiss": nearest_by_faiss}
SHOWN = 24  # suspects in the report
DRAWN_AT_ONCE = 16


class Audited:
    """The images of an audit, as its views see them. Whatever can be refused without a look at a picture is."""

    def __init__(self, config: AuditConfig, model: Model | None):
        self.config = config
        # Of the training images none is left out: a copy of it would be missed.
        split = config.train_split and (config.train_split,)
        self.train, self.held_out, self.synthetic = (
            collect(name, folders, splits, config.size, config.seed, origin, most)
            for name, folders, splits, origin, most in (
                ("train", config.train, split, None, None),
                ("held_out", config.held_out, config.held_out_split, "real", config.images),
                ("synthetic", (config.synthetic,), None, "synthetic", config.images),
            )
        )
        self._check_model(model)
        check_people(self.train.patients, self.held_out.patients, len(self.synthetic.records), config.settings)
        self.views = views(model, SEARCHES[config.search])
        self.prompts = np.array([prompt_of(record) for record in self.synthetic.records])

    @property
    def people(self) -> tuple[np.ndarray, np.ndarray]:
        return self.train.patients, self.held_out.patients

    def sets(self) -> list[FeatureSet]:
        """Every view of everything, planted copies included; computed once and kept."""
        config = self.config
        rows = np.random.default_rng(derive_seed(config.seed, "planted")).permutation(len(self.train.records))
        sources = list(self.train.pixels(rows[: config.planted]))
        copies = {kind: copies_of(sources, kind, config.seed) for kind in KINDS}
        return [
            feature_set(
                view,
                *(part.features(view.extractor, config.cache) for part in (self.train, self.held_out, self.synthetic)),
                [(kind, view.extractor.read(images)) for kind, images in copies.items()],
            )
            for view in self.views
        ]

    def instead(self, sets: Sequence[FeatureSet], images: Sequence[np.ndarray]) -> list[FeatureSet]:
        """The same sets with other synthetic images, and nothing planted."""
        told = []
        for view, features in zip(self.views, sets, strict=True):
            prepared = prepare(view, self.train.features(view.extractor, self.config.cache))
            told.append(replace(features, synthetic=prepared(view.extractor.read(images)), planted=()))
        return told

    def known(self, part: Collected, most: int) -> list[Known]:
        """One image a patient of the training or held-out records, at random."""
        rows, records = one_a_patient(part.patients, self.config.seed)[:most], part.records
        return [
            Known(pixels, records[row].condition, min(records[row].native_width, records[row].native_height))
            for pixels, row in zip(part.pixels(rows), rows, strict=True)
        ]

    def inputs(self) -> tuple[Input, ...]:
        parts = (("train", self.train), ("held_out", self.held_out), ("synthetic", self.synthetic))
        return tuple(given for role, part in parts for given in part.inputs(role))

    def _check_model(self, model: Model | None) -> None:
        """The pictures are this model's, and the training images are those that it was trained on."""
        if model is None:
            return
        config, made = self.config, shown(self.config.synthetic)
        others = {record.model for record in self.synthetic.records} - {model.hash}
        if others:
            raise DatasetError(
                f"synthetic = {made} was made by model {str(others.pop())[:12]}, not by {model.hash[:12]}, "
                "which is audited; give what that one made"
            )
        datasets, said = [dataset for dataset, _ in self.train.parts], model.info
        split = config.train_split or "train"
        if said.data_hash not in (None, corpus_images(datasets, split, said.resolution, config.per_patient)[1]):
            raise DatasetError(
                "train: these aren't the images that the model was trained on, whose copies are to be found; give the "
                "same DATASETs, in the same order, and the same per_patient"
            )
        if config.bind and (folder := Path(config.model)).is_dir():
            check_bindable(folder, model.hash)
        elif config.bind:
            log.warning("the result won't be written into the model: %s is no folder", config.model)


def run(config: AuditConfig, fresh: bool = False) -> AuditResult:
    """Audit, and write result.json and report.html into `config.output`; a finished run is left as it is.

    Raises:
        AuditError, NotComparable: what was given can't be audited.
        DatasetError: no dataset, or pictures that another model made, or images that it wasn't trained on.
        ModelError: no such model, or one that the result can't be written into.
        RunError: the output holds another run, or one of other datasets or weights.
        UserError: what the extra [eval] installs isn't there, or faiss where it's asked for.
    """
    needed()
    if config.search == "faiss":
        faiss_module()
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
    found = audit(sets, *audited.people, prompts, config.settings)
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
    members, others = (audited.known(part, config.membership_images) for part in (audited.train, audited.held_out))
    return membership(model, members, others, derive_seed(config.seed, "membership") % 2**31)


def _worst(config: AuditConfig, audited: Audited, sets: Sequence[FeatureSet], model: Model) -> Score:
    """The excess copy rate of what training prompts bring back: where copies are likeliest."""
    rows = one_a_patient(audited.train.patients, derive_seed(config.seed, "worst case"))[: config.worst_prompts]
    train = audited.train.records
    records = [train[row] for row in rows]
    requests = [
        Request(condition=record.condition, seed=derive_seed(config.seed, f"{record.id}/{number}"))
        for record in records for number in range(config.worst_seeds)
    ]  # fmt: skip
    device = model.pipeline.device.type
    bfloat16 = settled(config.precision, device == "cuda") == "bfloat16"
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        images = [generated.pixels for generated in Generator(model, config.sampler, DRAWN_AT_ONCE)(requests)]
    prompts = np.repeat([to_prompt(record.condition) for record in records], config.worst_seeds)
    name, told = "excess copy rate, training prompts", audited.instead(sets, images)
    return copy_rate(name, told, *audited.people, prompts, config.settings)


def _result(
    config: AuditConfig, audited: Audited, model: Model | None, found: Audit, members: Sequence[Score],
    worst: Score | None, failures: Sequence[str],
) -> AuditResult:  # fmt: skip
    by_set = [s for one in found.sets for s in (one.excess, one.nearness, one.data_copying, one.authenticity)]
    scores = [found.told_apart, *found.controls, *by_set, *members, *([worst] if worst else [])]
    train, made = audited.train.records, audited.synthetic.records
    suspects = tuple(
        Suspected(synthetic=made[s.synthetic].id, train=train[s.train].id, features=s.features, p=s.p)
        for s in found.suspects
    )
    return AuditResult(
        failures=tuple(failures), inputs=audited.inputs(), model=model.hash if model else None,
        alpha=config.settings.alpha, excess=named(found.excess), fresh=found.fresh, listable=found.listable,
        held_out_patients=len(set(audited.held_out.patients)), numbers=tuple(map(named, scores)), suspects=suspects,
        extractors=tuple(view.extractor.name for view in audited.views), environment=environment(),
        remarks=tuple(remark for one in found.sets if (remark := one.remark())),
    )  # fmt: skip


def _pictures(audited: Audited, suspects: Sequence[Suspected]) -> list[Pictured]:
    """The most suspect images beside the training images they're near to."""
    rows = [{record.id: row for row, record in enumerate(part.records)} for part in (audited.synthetic, audited.train)]
    named = suspects[:SHOWN]
    synthetic = audited.synthetic.pixels([rows[0][suspect.synthetic] for suspect in named])
    train = audited.train.pixels([rows[1][suspect.train] for suspect in named])
    return [Pictured(*one) for one in zip(named, synthetic, train, strict=True)]


def _bind(config: AuditConfig, result: AuditResult, members: Sequence[Score]) -> None:
    path = Path(config.model)
    if not path.is_dir():
        return
    excess, roles = result.excess, ("train", "held_out", "synthetic")
    hashes = {role: " ".join(given.manifest_sha256 for given in result.inputs if given.role == role) for role in roles}
    record = AuditRecord(
        weights=result.model, **hashes, alpha=result.alpha, excess=excess.value, excess_low=excess.low,
        excess_high=excess.high, membership=max((score.value for score in members), default=None), images=excess.n,
        held_out_patients=result.held_out_patients, failures=result.failures,
    )  # fmt: skip
    bind_audit(path, record)
