"""A retraining by several CPU processes over gloo; what each sees in a step is written down."""

import json
import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
PATIENCE = 900  # seconds; a busy machine is no failure


@dataclass(frozen=True)
class Ended:
    """What became of the processes, and what they said together."""

    codes: list[int]
    said: str


def launch(folder: Path, processes: int, divided: bool = False, stop: int | None = None, **environment: str) -> Ended:
    """`synthcxr train folder/config.yaml`; what a process sees in each step goes to `folder/seen-PID.jsonl`.

    They are forked from one in which torch is imported already, with the environment that launchers give.

    Args:
        divided: among the processes (FSDP), as scripts/accelerate/fsdp.yaml says it.
        stop: each process gets SIGTERM in this step.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["synthcxr.train.run", "synthcxr.cli"])
    (folder / "said.txt").unlink(missing_ok=True)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
    shared |= {"LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"} | (FSDP if divided else {}) | environment
    running = []
    for rank in range(processes):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        running.append(context.Process(target=train, args=(folder, stop, own)))
        running[-1].start()
    for process in running:
        process.join(PATIENCE)
        process.kill()
        process.join()
    return Ended([process.exitcode for process in running], (folder / "said.txt").read_text())


def train(folder: Path, stop: int | None, environment: dict[str, str]) -> None:
    os.environ |= environment
    descriptor = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from synthcxr.cli import main
    from synthcxr.train.base_stage import BaseStage
    from synthcxr.train.batches import share

    loss = BaseStage.loss

    def watched(self: BaseStage, module: object, step: int, rank: int, processes: int, device: object) -> object:
        batch = [int(i) for i in share(self._batch(step), rank, processes)]
        with open(folder / f"seen-{os.getpid()}.jsonl", "a") as file:
            file.write(json.dumps([step + 1, rank, processes, batch]) + "\n")
        if step + 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, module, step, rank, processes, device)

    BaseStage.loss = watched
    sys.argv = ["synthcxr", "train", str(folder / "config.yaml")]
    main()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
