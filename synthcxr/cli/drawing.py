"""`synthcxr generate` and `synthcxr demo`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from synthcxr.cli.quiet import quiet
from synthcxr.cli.words import AsJson, DryRun, Fresh, given, load, print_config, sort_words


def generate(
    words: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT|CONFIG.yaml|key=value]...")] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", help="pictures a prompt")] = None,
    seed: Annotated[int | None, typer.Option(help="of the first picture; the next ones count up")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder for the pictures")] = None,
    steps: Annotated[int | None, typer.Option(help="of the sampler")] = None,
    guidance: Annotated[float | None, typer.Option(help="1: none; higher: closer to the prompt, less varied")] = None,
    finding_guidance: Annotated[float | None, typer.Option(help="0: none; higher: more distinct findings")] = None,
    sampler: Annotated[str | None, typer.Option(help="dpm++, sde-dpm++, ddim or few-step")] = None,
    model: Annotated[str | None, typer.Option(help="folder, or hub id with its revision; default: embedded")] = None,
    batch_size: Annotated[int | None, typer.Option(help="pictures drawn at once")] = None,
    format: Annotated[str | None, typer.Option(help="png or dicom")] = None,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Draw pictures from text prompts."""
    quiet()
    from synthcxr.generate_run import GenerateConfig, open_generator, run

    config, overrides, prompts = sort_words(words, GenerateConfig)
    flags = {
        "count": count, "seed": seed, "output": output and str(output), "model": model, "batch_size": batch_size,
        "format": format,
        "settings.steps": steps, "settings.guidance": guidance, "settings.sampler": sampler,
        "settings.finding_guidance": finding_guidance,
        "prompts": prompts or None,
    }  # fmt: skip
    resolved = load(GenerateConfig, config, overrides + given(flags))
    _say_understood(resolved)
    if dry_run:
        return print_config(resolved)
    generator = open_generator(resolved)
    _warn(generator, resolved)
    paths = run(resolved, fresh, generator)
    print(json.dumps([str(path) for path in paths]) if as_json else "\n".join(map(str, paths)))


def demo(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    model: Annotated[str | None, typer.Option(help="folder or hub id with its revision; default: embedded")] = None,
    host: Annotated[str, typer.Option(help="address to listen on; others than this machine's own need a password")] = (
        "127.0.0.1"
    ),
    # From the environment alone: arguments are seen by every user of a machine.
    auth: Annotated[str | None, typer.Option(envvar="SYNTHCXR_DEMO_AUTH", hidden=True)] = None,
) -> None:
    """Open the demo page on this machine; with SYNTHCXR_DEMO_AUTH=user:password and --host also to others."""
    quiet()
    from synthcxr.demo import launch

    launch(model=model, port=port, host=host, auth=auth)


def _say_understood(config: Any) -> None:
    from synthcxr.conditions import describe

    for condition in dict(config.understood()).values():
        print(f"understood: {describe(condition)}", file=sys.stderr)


def _warn(generator: Any, config: Any) -> None:
    for condition in dict(config.understood()).values():
        told, unseen = generator.prompt(condition)
        if unseen:
            words = ", ".join(map(repr, unseen))
            print(f"warning: the model never saw {words}; it is told {told!r}", file=sys.stderr)
        for finding, count in generator.rare(condition).items():
            print(f"warning: only {count} training images showed {finding.value}; don't rely on it", file=sys.stderr)
