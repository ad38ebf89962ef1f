"""Engines: the same bytes from one process, from several, and from a Ray cluster that loses a node."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_synthesize import config_for, contents

from synthcxr.config import dump_config
from synthcxr.data.dataset import Dataset
from synthcxr.errors import RunError
from synthcxr.synthesis.engines.local import default_workers, devices_of
from synthcxr.synthesis.run import run
from synthcxr.synthesis.screen import Screen, ScreenConfig

PATIENCE = 1200  # a busy machine is no failure


def suicidal(config: ScreenConfig, model: str | None) -> Screen:
    os.kill(os.getpid(), signal.SIGKILL)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Processes below one, at any depth."""
    own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return own + [further for child in own for further in children(child)]


def test_devices_and_workers_of_this_machine(tiny_model: Path, tmp_path: Path) -> None:
    config = config_for(tiny_model, tmp_path, engine={"devices": ["cuda:0", "cuda:3"]})
    assert devices_of(config.engine) == ("cuda:0", "cuda:3") and default_workers(1, devices_of(config.engine)) == 2
    usable = len(os.sched_getaffinity(0))
    assert default_workers(1, ("cpu",)) == usable and default_workers(2 * usable, ("cpu",)) == 1


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one_and_end_with_a_killed_parent(tiny_model: Path, tmp_path: Path) -> None:
    one = run(config_for(tiny_model, tmp_path / "one" / "out", rows=60, shard_rows=2))
    config = config_for(tiny_model, tmp_path / "two" / "out", rows=60, shard_rows=2, engine={"workers": 2})
    (tmp_path / "job.yaml").write_text(dump_config(config))
    command = [sys.executable, "-m", "synthcxr.cli", "synthesize", str(tmp_path / "job.yaml")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    parts = tmp_path / "two"
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    until(lambda: list(parts.glob(".tmp-*.parts/*.json")) or killed.poll() is not None)
    workers = children(killed.pid)
    killed.kill()
    killed.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert len(workers) >= 2 and not (parts / "out").exists()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert said.startswith(f"{tmp_path}/two/out: 60 of 60 rows (60 drawn, ")
    assert not any(f"{number} images made now" in said for number in (0, 60))
    assert contents(tmp_path / "two" / "out") == contents(one.dataset.path)


def test_the_death_of_a_worker_is_said(tiny_model: Path, tmp_path: Path) -> None:
    config = config_for(tiny_model, tmp_path / "out", screen=ScreenConfig(), engine={"workers": 2})
    with pytest.raises(RunError, match="a worker died .SIGKILL.*the same command goes on"):
        run(config, opener=suicidal)


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_makes_the_bytes_of_one_process(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # read when Ray is imported
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    pytest.importorskip("ray", reason="Ray isn't installed: pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    fields = {"rows": 240, "shard_rows": 2, "batch_size": 2}
    one = run(config_for(tiny_model, tmp_path / "one" / "out", **fields))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    log = tmp_path / "ray" / "out.run" / "log.jsonl"

    def both_have_worked() -> bool:
        lines = log.read_text().splitlines() if log.exists() else []
        return len({line.partition('"worker": ')[2] for line in lines if '"shard"' in line}) == 2

    def lose() -> None:
        until(both_have_worked)
        cluster.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    try:
        engine = {"kind": "ray", "address": cluster.address, "workers": 2}
        done = run(config_for(tiny_model, tmp_path / "ray" / "out", engine=engine, **fields))
        thread.join()
    finally:
        cluster.shutdown()
    assert done.made == 240 and len(Dataset.open(tmp_path / "ray" / "out")) == 240
    assert "a worker died; its job goes to another" in caplog.text
    assert contents(tmp_path / "ray" / "out") == contents(one.dataset.path)


@pytest.mark.slow
def test_without_an_address_ray_is_started_here_and_ends(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray isn't installed: pip install -e '.[ray]'")
    one = run(config_for(tiny_model, tmp_path / "one" / "out"))
    config = config_for(tiny_model, tmp_path / "ray" / "out", engine={"kind": "ray", "workers": 1})
    (tmp_path / "job.yaml").write_text(dump_config(config))
    # In a process of its own: what Ray is told in the environment it reads once, when it's imported.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "RAY_AUTH"))
    }
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(tmp_path)}
    environment |= {"RAY_worker_register_timeout_seconds": "600"}
    command = [sys.executable, "-m", "synthcxr.cli", "synthesize", str(tmp_path / "job.yaml")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert said.returncode == 0 and "14 of 14 rows (14 drawn, 14 images made now)" in said.stdout, said.stderr
    assert contents(tmp_path / "ray" / "out") == contents(one.dataset.path)
    assert (tmp_path / ".ray" / "auth_token").stat().st_size >= 32  # nobody else of this machine can send it work


def test_a_slurm_array_draws_ranges_and_then_the_whole(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "scripts" / "synthesize_slurm.sh"
    for name in ("synthcxr", "sbatch"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n')
        (tmp_path / name).chmod(0o755)
    array = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_JOB_ID": "77"}
    for task in ("1", "2"):
        subprocess.run([script, "a.yaml", "seed=3"], check=True, env={**array, "SLURM_ARRAY_TASK_ID": task})
    first, second, whole = (tmp_path / "calls").read_text().splitlines()
    assert first == "synthcxr synthesize a.yaml seed=3 part=1/2" and second.endswith("part=2/2")
    assert whole.startswith("sbatch --dependency=afterany:77,singleton ")
    assert whole.endswith("--wrap=synthcxr synthesize a.yaml seed=3 ")
    assert subprocess.run([script], env=array, capture_output=True).returncode != 0


@pytest.mark.slow
def test_tasks_of_an_array_draw_at_the_same_time(tiny_model: Path, tmp_path: Path) -> None:
    """The script with the real command; what Slurm would run last is run when the tasks have ended."""
    root = Path(__file__).parents[1]
    one = run(config_for(tiny_model, tmp_path / "one" / "out", rows=60, shard_rows=2))
    config = config_for(tiny_model, tmp_path / "array" / "out", rows=60, shard_rows=2)
    (tmp_path / "job.yaml").write_text(dump_config(config))
    commands = {"synthcxr": f'{sys.executable} -m synthcxr.cli "$@"', "sbatch": f'echo "${{@: -1}}" > {tmp_path}/last'}
    for name, line in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1",
        "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_JOB_ID": "77",
    }  # fmt: skip
    command = [root / "scripts" / "synthesize_slurm.sh", tmp_path / "job.yaml"]
    tasks = [
        subprocess.Popen(command, env={**environment, "SLURM_ARRAY_TASK_ID": task}, stderr=subprocess.PIPE, text=True)
        for task in "12"
    ]
    for task in tasks:
        _, errors = task.communicate()
        assert task.returncode == 0, errors
    assert not (tmp_path / "array" / "out").exists()
    last = (tmp_path / "last").read_text().removeprefix("--wrap=")
    said = subprocess.run(["sh", "-c", last], env=environment, capture_output=True, text=True)
    assert said.returncode == 0 and "60 drawn, 0 images made now" in said.stdout, said.stderr
    assert contents(tmp_path / "array" / "out") == contents(one.dataset.path)
