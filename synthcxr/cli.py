"""The command line: one verb a capability. Heavy imports stay inside the commands, so that --help answers at once."""

import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from synthcxr import __version__
from synthcxr.errors import UserError

app = typer.Typer(
    help="Synthetic chest radiographs: generate, retrain, prepare data. Research only, not for diagnosis.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None,
)  # fmt: skip

Words = Annotated[list[str] | None, typer.Argument(help="CONFIG.yaml and key.path=value", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the resolved config and end")]
Fresh = Annotated[bool, typer.Option("--fresh", help="start over in an output that holds another run")]
AsJson = Annotated[bool, typer.Option("--json", help="the result as JSON, for machines")]


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


@app.command()
def generate(
    words: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT|CONFIG.yaml|key=value]...")] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", help="pictures a prompt")] = None,
    seed: Annotated[int | None, typer.Option(help="of the first picture; the next ones count up")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder for the pictures")] = None,
    steps: Annotated[int | None, typer.Option(help="of the sampler")] = None,
    guidance: Annotated[float | None, typer.Option(help="1: none; higher: closer to the prompt, less varied")] = None,
    sampler: Annotated[str | None, typer.Option(help="dpm++, sde-dpm++ or ddim")] = None,
    model: Annotated[str | None, typer.Option(help="folder, or hub id with its revision; default: embedded")] = None,
    batch_size: Annotated[int | None, typer.Option(help="pictures drawn at once")] = None,
    format: Annotated[str | None, typer.Option(help="png or dicom")] = None,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Draw pictures from text prompts."""
    _quiet()
    from synthcxr.generate import GenerateConfig, open_generator, run

    config, overrides, prompts = _sorted(words, GenerateConfig)
    flags = {
        "count": count, "seed": seed, "output": output and str(output), "model": model, "batch_size": batch_size,
        "format": format,
        "settings.steps": steps, "settings.guidance": guidance, "settings.sampler": sampler,
        "prompts": prompts or None,
    }  # fmt: skip
    resolved = _load(GenerateConfig, config, overrides + _given(flags))
    _say_understood(resolved)
    if dry_run:
        return _print_config(resolved)
    generator = open_generator(resolved)
    _warn_unseen(generator, resolved)
    paths = run(resolved, fresh, generator)
    print(json.dumps([str(path) for path in paths]) if as_json else "\n".join(map(str, paths)))


@app.command()
def prepare(words: Words = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Read radiographs and their tables into one DATASET folder, split by patient."""
    from synthcxr.data.prepare import PrepareConfig, run

    config = _plain(words, PrepareConfig)
    if dry_run:
        return _print_config(config)
    dataset = run(config)
    counts = dataset.info["counts"]
    splits = ", ".join(f"{name} {split['images']}" for name, split in counts["splits"].items())
    print(json.dumps(counts) if as_json else f"{config.output}: {counts['images']} images ({splits})")


@app.command()
def curate(
    words: Words = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be dropped and why, and end")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop duplicates, thin what is redundant, make columns independent; into a new DATASET with every decision."""
    from synthcxr.data.curate.config import CurateConfig

    config = _plain(words, CurateConfig)
    from synthcxr.data.curate.decide import Extractor, decide, open_inputs
    from synthcxr.data.curate.run import run
    from synthcxr.data.curate.summary import one_line
    from synthcxr.errors import ModelError

    datasets, extract = open_inputs(config), None
    if config.prune and config.features != "pixels":
        _quiet()
        from synthcxr.model.classifier import load_classifier

        try:
            classifier = load_classifier(config.model)
            extract = Extractor(f"classifier {classifier.hash}", lambda images: classifier.read(images).features)
        except ModelError as error:
            if config.features == "classifier":
                raise
            print(f"{error}; comparing pixels meanwhile", file=sys.stderr)
    if dry_run:
        curation = decide(config, datasets, extract)
        dropped = {decision.id: decision.why() for decision in curation.decisions if not decision.kept}
        print(json.dumps(dropped) if as_json else "\n".join(f"{name}\t{why}" for name, why in dropped.items()))
        print(one_line(curation.summary), file=sys.stderr)
        return
    summary = run(config, extract).info["curate"]["summary"]
    kept = f"{summary['after']} of {summary['before']} images kept"
    print(json.dumps(summary) if as_json else f"{config.output}: {kept}; see {config.output / 'curation.md'}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="a DATASET folder, or an export of one")], as_json: AsJson = False
) -> None:
    """Compare every file with the folder's SHA256SUMS, and images with their rows; exit code 1 where one differs."""
    from synthcxr.data.sums import SUMS, files_in
    from synthcxr.data.verify import verify as check
    from synthcxr.runs import sha256_file

    problems = check(folder)
    files = len(files_in(folder))
    # Kept elsewhere, this one hash tells whether the folder is still the same, sums and all.
    digest = sha256_file(folder / SUMS) if (folder / SUMS).is_file() else None
    summary = problems or [f"{folder}: {files} files, all as written; sha256 of {SUMS}: {digest}"]
    result = {"files": files, "sums_sha256": digest, "problems": problems}
    print(json.dumps(result) if as_json else "\n".join(summary))
    raise typer.Exit(1 if problems else 0)


@app.command()
def export(
    words: Annotated[list[str] | None, typer.Argument(metavar="[DATASET|CONFIG.yaml|key=value]...")] = None,
    to: Annotated[str | None, typer.Option(help="imagefolder, parquet, webdataset, nih-csv or dicom")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder for the files")] = None,
    kind: Annotated[str | None, typer.Option(help="DX (digital radiograph) or SC (secondary capture)")] = None,
    bits: Annotated[int | None, typer.Option(help="8 or 12")] = None,
    compression: Annotated[str | None, typer.Option(help="jpeg-ls (lossless); default: none")] = None,
    unaudited: Annotated[
        bool | None, typer.Option("--unaudited", help="also of a model without a passing privacy audit")
    ] = None,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Write a DATASET in a form that other software reads. The same command resumes."""
    from synthcxr.synthesis.export.run import ExportConfig, run

    config, overrides, rest = _sorted(words, ExportConfig)
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r}: one DATASET at most")
    flags = {
        "dataset": rest[0] if rest else None, "to": to, "output": output and str(output),
        "dicom.kind": kind, "dicom.bits": bits, "dicom.compression": compression, "unaudited": unaudited,
    }  # fmt: skip
    resolved = _load(ExportConfig, config, overrides + _given(flags))
    if dry_run:
        return _print_config(resolved)
    images = run(resolved, fresh)
    print(json.dumps({"images": images}) if as_json else f"{resolved.output}: {images} images")


@app.command()
def train(words: Words = None, dry_run: DryRun = False, fresh: Fresh = False, as_json: AsJson = False) -> None:
    """Train the embedded architecture, or retrain an open model (base.model). The same command resumes."""
    _quiet()
    from synthcxr.train.config import TrainConfig

    config = _plain(words, TrainConfig)
    if dry_run:
        _print_config(config)
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


@app.command()
def synthesize(
    words: Words = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan, and what it will take, and end")] = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Draw a labelled, screened, synthetic DATASET after a plan. The same command goes on where it was cut off."""
    _quiet()
    from synthcxr.synthesis.config import SynthesizeConfig
    from synthcxr.synthesis.estimate import report
    from synthcxr.synthesis.run import run

    config = _plain(words, SynthesizeConfig)
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


@app.command()
def calibrate(words: Words = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Measure what the screen of a MODEL folder lets through, on the DATASETs that the model was trained on."""
    _quiet()
    from synthcxr.synthesis.screen.calibrate import CalibrateConfig, run

    config = _plain(words, CalibrateConfig)
    if dry_run:
        return _print_config(config)
    limits = run(config)
    print(limits.model_dump_json() if as_json else f"{config.model / 'screen'}: {limits.summary()}")


@app.command()
def evaluate(words: Words = None, dry_run: DryRun = False, fresh: Fresh = False, as_json: AsJson = False) -> None:
    """Measure synthetic DATASETs against real images: fidelity, alignment, control, fairness; with a report."""
    _quiet()
    from synthcxr.evaluation.config import EvaluateConfig

    config = _plain(words, EvaluateConfig)
    if dry_run:
        return _print_config(config)
    from synthcxr.evaluation.run import REPORT, run

    result = run(config, fresh)
    lines = [f"{one.dataset.name}: {line}" for one in result.judged for line in one.lines if line.group == "all"]
    print(result.model_dump_json() if as_json else "\n".join([*lines, f"report: {config.output / REPORT}"]))


@app.command()
def audit(words: Words = None, dry_run: DryRun = False, fresh: Fresh = False, as_json: AsJson = False) -> None:
    """Audit a model, or a synthetic DATASET, for copies of training images; exit code 1 where it doesn't pass."""
    _quiet()
    from synthcxr.evaluation.config import AuditConfig

    config = _plain(words, AuditConfig)
    if dry_run:
        return _print_config(config)
    from synthcxr.evaluation.audit_run import REPORT, run

    result = run(config, fresh)
    lines = [f"{one.name} {one}" for one in (result.excess, *result.numbers)]
    lines += [f"suspects: {len(result.suspects)}", *(f"failed: {why}" for why in result.failures)]
    verdict = f"{'passed' if result.passed else 'not passed'}; report: {config.output / REPORT}"
    print(result.model_dump_json() if as_json else "\n".join([*lines, verdict]))
    raise typer.Exit(0 if result.passed else 1)


@app.command("push-to-hub")
def push_to_hub(words: Words = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Upload a MODEL folder to the Hugging Face hub; of credentialed data, to a private repository unless told."""
    from synthcxr.model.push import PushConfig, run

    config = _plain(words, PushConfig)
    if dry_run:
        return _print_config(config)
    where = run(config)
    print(json.dumps({"url": where}) if as_json else where)


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    model: Annotated[str | None, typer.Option(help="folder or hub id with its revision; default: embedded")] = None,
) -> None:
    """Open the demo page on this machine."""
    _quiet()
    from synthcxr.demo import launch

    launch(model=model, port=port)


def main() -> None:
    """The entry point: a user's mistake is one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """An exception, unlike the default, lets temporary files be removed on the way out."""
    sys.exit(128 + number)


def _quiet() -> None:
    """Libraries that load models say much that isn't for users; the variables work before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("httpx", "accelerate", "diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _sorted(words: list[str] | None, cls: type) -> tuple[Path | None, list[str], list[str]]:
    """Positional words into at most one config file, overrides of known keys, and the rest (prompts)."""
    configs, overrides, rest = [], [], []
    for word in words or []:
        key = re.match(r"([a-z_]+)(\.[a-z_]+)*=", word)
        if word.endswith((".yaml", ".yml")):
            configs.append(Path(word))
        elif key and (key[1] in cls.model_fields or " " not in word):
            overrides.append(word)
        else:
            rest.append(word)
    if len(configs) > 1:
        raise UserError(f"{configs[1]}: one config file at most; put what differs as key.path=value")
    return (configs[0] if configs else None), overrides, rest


def _given(flags: Mapping[str, Any]) -> list[str]:
    """Flags that were given, by the key each stands for, as overrides."""
    return [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]


def _plain(words: list[str] | None, cls: type) -> Any:
    config, overrides, rest = _sorted(words, cls)
    if rest:
        raise UserError(f"{rest[0]!r} must be CONFIG.yaml or key.path=value")
    return _load(cls, config, overrides)


def _load(cls: type, config: Path | None, overrides: list[str]) -> Any:
    from synthcxr.config import load_config

    return load_config(cls, config, overrides)


def _print_config(config: Any) -> None:
    from synthcxr.config import dump_config

    print(dump_config(config), end="")


def _say_understood(config: Any) -> None:
    from synthcxr.conditions import describe

    for condition in dict(config.understood()).values():
        print(f"understood: {describe(condition)}", file=sys.stderr)


def _warn_unseen(generator: Any, config: Any) -> None:
    for condition in dict(config.understood()).values():
        told, unseen = generator.prompt(condition)
        if unseen:
            words = ", ".join(map(repr, unseen))
            print(f"warning: the model never saw {words}; it is told {told!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
