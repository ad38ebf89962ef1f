"""A retraining by several CPU processes, launched as accelerate's launcher does it; each batch it sees is written down."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
PATIENCE = 500  # seconds; a busy machine is no failure


def launch(
    folder: Path, processes: int, divided: bool = False, stop: int | None = None, **changes: str
) -> subprocess.CompletedProcess:
    """`synthcxr train folder/config.yaml`; what a process saw in each step goes to `folder/PID.jsonl`.

    Args:
        divided: among the processes (FSDP), as scripts/accelerate/fsdp.yaml says it.
        stop: each process gets SIGTERM in this step.
        changes: of the environment.
    """
    python = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    paths = os.pathsep.join(str(Path(__file__).parents[i]) for i in (0, 1))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | (FSDP if divided else {}) | changes
    return subprocess.run(
        [*python, __file__, str(folder), str(stop or 0)], capture_output=True, text=True, timeout=PATIENCE,
        env=environment,
    )  # fmt: skip


def main(folder: Path, stop: int) -> None:
    from synthcxr.cli import main
    from synthcxr.train.base_stage import BaseStage
    from synthcxr.train.batches import share

    loss = BaseStage.loss

    def watched(self: BaseStage, module: object, step: int, rank: int, processes: int, device: object) -> object:
        batch = [int(i) for i in share(self._batch(step), rank, processes)]
        with open(folder / f"seen-{os.getpid()}.jsonl", "a") as file:
            file.write(json.dumps([step + 1, batch]) + "\n")
        if step + 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, module, step, rank, processes, device)

    BaseStage.loss = watched
    sys.argv = ["synthcxr", "train", str(folder / "config.yaml")]
    main()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
