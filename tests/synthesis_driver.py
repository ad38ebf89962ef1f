"""A process that has imported everything and loaded a model, and forks one that synthesizes for each line it reads.

So a run that is killed spends its life drawing and writing. Each line is a config as JSON; the answers are lines, too:
the child's pid, then its exit code once it has ended.
"""

import os
import sys
from pathlib import Path

import torch

from synthcxr.model.folder import load_model
from synthcxr.synthesis import worker
from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.run import run


def main() -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's
    model = load_model(Path(sys.argv[1]))
    worker.load_model = lambda *_: model
    for line in sys.stdin:
        config = SynthesizeConfig.model_validate_json(line)
        pid = os.fork()
        if pid == 0:
            run(config)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
