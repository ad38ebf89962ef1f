"""A process that has imported everything, and forks one that synthesizes for each line it reads: kills cost no imports.

Each line is a config as JSON; the answers are lines: the child's pid, then its exit status once it has ended.
"""

import os
import sys

from pydantic import TypeAdapter

from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.run import run


def main() -> None:
    import diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl  # noqa: F401
    import transformers.models.clip.modeling_clip  # noqa: F401

    for line in sys.stdin:
        config = TypeAdapter(SynthesizeConfig).validate_json(line)
        pid = os.fork()
        if pid == 0:
            run(config)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
