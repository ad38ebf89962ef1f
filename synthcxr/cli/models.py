"""From data to a measured model: `synthcxr train`, `push-to-hub`, `calibrate`, `synthesize`, `evaluate`, `audit`,
`downstream`."""

import json
import sys
from typing import Annotated

import typer

from synthcxr.cli.quiet import quiet
from synthcxr.cli.words import AsJson, DryRun, Fresh, Words, config_of, print_config


def train(words: Words = None, dry_run: DryRun = False, fresh: Fresh = False, as_json: AsJson = False) -> None:
    """Train the embedded architecture, or retrain an open model (base.model). The same command resumes."""
    quiet()
    from synthcxr.train.config import TrainConfig

    config = config_of(words, TrainConfig)
    if dry_run:
        print_config(config)
        if config.base:
            from synthcxr.errors import ModelError
            from synthcxr.train.estimate import estimate

            try:
                print(estimate(config, half=config.precision != "fp32"), file=sys.stderr)
            except ModelError as unknown:
                print(f"warning: {unknown}", file=sys.stderr)
        return
    from synthcxr.train.loop import Interrupted
    from synthcxr.train.run import run

    try:
        result = run(config, fresh)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        raise typer.Exit(143) from None
    print(json.dumps(result) if as_json else f"{config.output / 'model'}: {result['model_hash']}")


def push_to_hub(words: Words = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Upload a MODEL folder to the Hugging Face hub; of credentialed data, to a private repository unless told."""
    from synthcxr.model.push import PushConfig, run

    config = config_of(words, PushConfig)
    if dry_run:
        return print_config(config)
    where = run(config)
    print(json.dumps({"url": where}) if as_json else where)


def calibrate(words: Words = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Measure what the screen of a MODEL folder lets through, on the DATASETs that the model was trained on."""
    quiet()
    from synthcxr.synthesis.screen.calibrate import CalibrateConfig, run

    config = config_of(words, CalibrateConfig)
    if dry_run:
        return print_config(config)
    limits = run(config)
    print(limits.model_dump_json() if as_json else f"{config.model / 'screen'}: {limits.summary()}")


def synthesize(
    words: Words = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan, and what it will take, and end")] = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Draw a labelled, screened, synthetic DATASET after a plan. The same command goes on where it was cut off."""
    quiet()
    from synthcxr.synthesis.config import SynthesizeConfig
    from synthcxr.synthesis.estimate import report
    from synthcxr.synthesis.run import run

    config = config_of(words, SynthesizeConfig)
    if dry_run:
        for line in report(config):
            print(line)
        return
    done = run(config, fresh)
    if as_json:
        print(json.dumps({"made": done.made, "result": done.result and done.result.model_dump()}))
    elif done.result is None:
        print(f"{config.output}: part {config.part}, {done.made} images made; without part= they become a dataset")
    else:
        made = f"({done.result.drawn} drawn, {done.made} images made now)"
        print(f"{config.output}: {done.result.images} of {done.result.planned} rows {made}")


def evaluate(words: Words = None, dry_run: DryRun = False, fresh: Fresh = False, as_json: AsJson = False) -> None:
    """Measure synthetic DATASETs against real images: fidelity, alignment, control, fairness; with a report."""
    quiet()
    from synthcxr.evaluation.config import EvaluateConfig

    config = config_of(words, EvaluateConfig)
    if dry_run:
        return print_config(config)
    from synthcxr.evaluation.run import REPORT, run

    result = run(config, fresh)
    lines = [f"{one.dataset.name}: {line}" for one in result.judged for line in one.lines if line.group == "all"]
    print(result.model_dump_json() if as_json else "\n".join([*lines, f"report: {config.output / REPORT}"]))


def audit(words: Words = None, dry_run: DryRun = False, fresh: Fresh = False, as_json: AsJson = False) -> None:
    """Audit a model, or a synthetic DATASET, for copies of training images; exit code 1 where it doesn't pass."""
    quiet()
    from synthcxr.evaluation.config import AuditConfig

    config = config_of(words, AuditConfig)
    if dry_run:
        return print_config(config)
    from synthcxr.evaluation.audit_run import REPORT, run

    result = run(config, fresh)
    lines = [f"{one.name} {one}" for one in (result.excess, *result.numbers)]
    lines += [*result.remarks, f"suspects: {len(result.suspects)}", *(f"failed: {why}" for why in result.failures)]
    verdict = f"{'passed' if result.passed else 'not passed'}; report: {config.output / REPORT}"
    print(result.model_dump_json() if as_json else "\n".join([*lines, verdict]))
    raise typer.Exit(0 if result.passed else 1)


def downstream(words: Words = None, dry_run: DryRun = False, fresh: Fresh = False, as_json: AsJson = False) -> None:
    """Does synthetic data help? Train classifiers with and without it, alike in all else. The same command resumes."""
    quiet()
    from synthcxr.downstream.config import DownstreamConfig

    config = config_of(words, DownstreamConfig)
    if dry_run:
        return print_config(config)
    from synthcxr.downstream.run import REPORT, run

    result = run(config, fresh)
    if result is not None:  # under accelerate, the main process has it
        lines = [*result.verdict, f"report: {config.output / REPORT}"]
        print(result.model_dump_json() if as_json else "\n".join(lines))
