"""`synthcxr downstream`: classifiers of several arms over fractions of patients, into result.json and a report."""

import sys
from collections import defaultdict
from functools import partial

from tqdm import tqdm

from synthcxr.downstream.bench import Bench, label_table, open_bench
from synthcxr.downstream.cell import Predictions, cells_of, load_predictions
from synthcxr.downstream.config import DownstreamConfig
from synthcxr.downstream.measure import Key
from synthcxr.downstream.processes import Processes, Together, launched
from synthcxr.downstream.report import html
from synthcxr.downstream.result import DownstreamResult
from synthcxr.downstream.summary import Summary
from synthcxr.downstream.verdict import verdict
from synthcxr.downstream.worker import CellJob, Worker
from synthcxr.errors import ConfigError, RunError, shown
from synthcxr.files import write_bytes, write_text
from synthcxr.runs import Run, environment
from synthcxr.synthesis.config import EngineConfig
from synthcxr.synthesis.engines import ENGINES

REPORT = "report.html"
CELLS = "cells"


def run(config: DownstreamConfig, fresh: bool = False) -> DownstreamResult | None:
    """Train what isn't there yet, and write `cells/*.npz`, test.csv, validate.csv, result.json and report.html.

    Killed at any moment, the same command goes on with the cells that aren't there, to the same bytes. Under
    `accelerate launch` all processes train each cell together, and only the main one gets a result.

    Raises:
        UserError: datasets or labels that the experiment can't be made of; a folder that holds another one.
    """
    processes = Together() if launched() else None
    if processes and config.training.batch_size % processes.count:
        raise ConfigError(
            f"training.batch_size = {config.training.batch_size} must be a multiple of the {processes.count} processes"
        )
    main = processes is None or processes.main
    # Who does the work isn't part of the run's config: it may change from call to call.
    same = config.model_copy(update={"engine": EngineConfig()})
    bench, folder = None, None
    if main:
        folder = Run.open(config.output, same, "downstream", fresh)
        bench = open_bench(config)  # which writes the pixels that all workers map
    if processes:
        processes.wait()
    bench = bench or open_bench(config)
    if folder and folder.finished:
        return _finished(config, bench, folder)
    _train(config, bench, folder, processes)
    return _report(config, bench, folder) if folder else None


def _train(config: DownstreamConfig, bench: Bench, folder: Run | None, processes: Processes | None) -> None:
    cells = list(cells_of(config))
    at = config.output / CELLS
    missing = [
        CellJob(number, cell, at) for number, cell in enumerate(cells) if load_predictions(at, cell, bench.hash) is None
    ]
    if processes:
        processes.wait()  # before the main one writes what another might still look for
        worker = Worker(config, str(processes.device), processes)
        done = map(worker, missing)
    else:
        engine = ENGINES[config.engine.kind]
        make = partial(Worker, config)
        done = engine(config.engine, config.threads, make, iter(missing), len(missing)) if missing else ()
    with tqdm(
        total=len(cells), initial=len(cells) - len(missing), desc="downstream", unit="classifier", file=sys.stderr,
        disable=None if folder else True,
    ) as bar:  # fmt: skip
        for one in done:
            bar.update()
            if folder:
                folder.log("cell", cell=cells[one.number].name, seconds=one.seconds, worker=one.worker)


def _report(config: DownstreamConfig, bench: Bench, folder: Run) -> DownstreamResult:
    seeds: dict[Key, list[Predictions]] = defaultdict(list)
    for cell in cells_of(config):
        told = load_predictions(config.output / CELLS, cell, bench.hash)
        if told is None:
            raise RunError(
                f"{cell.name}.npz isn't in {shown(config.output / CELLS)} though it was trained; all workers must share"
                " the folder of the output"
            )
        seeds[cell.arm, cell.fraction, cell.multiple].append(told)
    summary = Summary(config, bench, seeds)
    points, comparisons, savings = summary.points(), summary.comparisons(), summary.savings()
    arms = tuple(arm.name for arm in config.arms)
    result = DownstreamResult(
        inputs=bench.inputs, labels=summary.labels(),
        patients={name: len(set(pool.patients)) for name, pool in bench.splits.items()}, arms=arms,
        fractions=config.fractions, multiples=config.multiples, seeds=config.seeds, protocol=summary.protocol(),
        points=points, comparisons=comparisons, savings=savings, worst=summary.worst, shortcut=summary.planted(),
        verdict=verdict(arms, comparisons, points, savings, config.seeds, config.generator_saw),
        left_out=tuple(summary.left_out), environment=environment(),
    )  # fmt: skip
    for name in ("validate", "test"):
        write_bytes(config.output / f"{name}.csv", label_table(bench.splits[name], bench.labels))
    write_text(config.output / REPORT, html(result))
    folder.finish(result.model_dump(mode="json"))
    return result


def _finished(config: DownstreamConfig, bench: Bench, folder: Run) -> DownstreamResult:
    result = DownstreamResult.model_validate(folder.result)
    for cell in cells_of(config):
        load_predictions(config.output / CELLS, cell, bench.hash)  # of other data, it says so
    return result
