"""What reads, writes and checks DATASET folders: `synthcxr prepare`, `curate`, `verify` and `export`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from synthcxr.cli.quiet import quiet
from synthcxr.cli.words import AsJson, DryRun, Fresh, Words, config_of, given, load, print_config, sort_words
from synthcxr.errors import UserError


def prepare(words: Words = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Read radiographs and their tables into one DATASET folder, split by patient."""
    from synthcxr.data.prepare import PrepareConfig, run

    config = config_of(words, PrepareConfig)
    if dry_run:
        return print_config(config)
    dataset = run(config)
    counts = dataset.info["counts"]
    splits = ", ".join(f"{name} {split['images']}" for name, split in counts["splits"].items())
    print(json.dumps(counts) if as_json else f"{config.output}: {counts['images']} images ({splits})")


def curate(
    words: Words = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be dropped and why, and end")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop duplicates, thin what is redundant, make columns independent; into a new DATASET with every decision."""
    from synthcxr.data.curate.config import CurateConfig

    config = config_of(words, CurateConfig)
    from synthcxr.data.curate.decide import Extractor, decide, open_inputs
    from synthcxr.data.curate.run import run
    from synthcxr.data.curate.summary import one_line
    from synthcxr.errors import ModelError

    datasets, extract = open_inputs(config), None
    if config.prune and config.features != "pixels":
        quiet()
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


def verify(
    folder: Annotated[Path, typer.Argument(help="a DATASET folder, or an export of one")], as_json: AsJson = False
) -> None:
    """Compare every file with the folder's SHA256SUMS, and images with their rows; exit code 1 where one differs."""
    from synthcxr.data.sums import SUMS, files_in
    from synthcxr.data.verify import verify as check
    from synthcxr.files import sha256_file

    problems = check(folder)
    files = len(files_in(folder))
    # Kept elsewhere, this one hash tells whether the folder is still the same, sums and all.
    digest = sha256_file(folder / SUMS) if (folder / SUMS).is_file() else None
    summary = problems or [f"{folder}: {files} files, all as written; sha256 of {SUMS}: {digest}"]
    result = {"files": files, "sums_sha256": digest, "problems": problems}
    print(json.dumps(result) if as_json else "\n".join(summary))
    raise typer.Exit(1 if problems else 0)


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

    config, overrides, rest = sort_words(words, ExportConfig)
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r}: one DATASET at most")
    flags = {
        "dataset": rest[0] if rest else None, "to": to, "output": output and str(output),
        "dicom.kind": kind, "dicom.bits": bits, "dicom.compression": compression, "unaudited": unaudited,
    }  # fmt: skip
    resolved = load(ExportConfig, config, overrides + given(flags))
    if dry_run:
        return print_config(resolved)
    images = run(resolved, fresh)
    print(json.dumps({"images": images}) if as_json else f"{resolved.output}: {images} images")
