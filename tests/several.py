"""A retraining by several CPU processes, launched as accelerate's launcher does it; what they see is written down."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
PATIENCE = 900  # seconds; a busy machine is no failure


def launch(
    folder: Path, processes: int, divided: bool = False, stop: int | None = None, told: signal.Signals | None = None,
    **environment: str,
) -> subprocess.CompletedProcess:  # fmt: skip
    """`synthcxr train folder/config.yaml`; what a process saw in each step goes to `folder/seen-PID.jsonl`.

    Args:
        divided: among the processes (FSDP), as scripts/accelerate/fsdp.yaml says it.
        stop: each process sends itself SIGTERM in this step.
        told: what the launcher is sent once there's a step in the log.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    paths = os.pathsep.join(str(Path(__file__).parents[i]) for i in (0, 1))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | (FSDP if divided else {}) | environment
    process = subprocess.Popen(
        [*command, __file__, str(folder), str(stop or 0)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    try:
        log, end = folder / "run" / "log.jsonl", time.monotonic() + PATIENCE
        while told and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
            if log.exists() and '"base/step"' in log.read_text():
                process.send_signal(told)
                break
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def said(done: subprocess.CompletedProcess) -> str:
    return f"exit code {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


def main(folder: Path, stop: int) -> None:
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


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
