"""The command line: results on stdout, the rest on stderr, and a user's mistake is one line and exit code 2."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from synthcxr import __version__
from synthcxr.cli import main
from synthcxr.data.dataset import Dataset
from synthcxr.files import sha256_file
from synthcxr.images import write_png

HEART = "72 year old female. Cardiomegaly."


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    """Runs `synthcxr WORD ...` in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["synthcxr", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
            sys.exit(0)
        out, err = capfd.readouterr()
        return Ended(end.value.code or 0, out, err)

    yield run
    signal.signal(signal.SIGTERM, handler)


def python(*words: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, **kwargs)


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "diffusers", "transformers", "pyarrow", "gradio", "PIL"}
    done = python("-c", "import sys, synthcxr.cli; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not heavy & set(done.stdout.split())


def test_help_and_version(cli: Cli) -> None:
    shown = cli("--help")
    assert shown.code == 0 and all(verb in shown.out for verb in ("generate", "prepare", "verify", "train", "demo"))
    assert cli("--version") == (0, f"{__version__}\n", "")


def test_generate_in_a_process_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    words = ["generate", HEART, "-n", 2, "--seed", 3, "-o", "out", "--model", tiny_model, "--steps", 2]
    done = python("-m", "synthcxr.cli", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["out/00000.png", "out/00001.png"]
    said = done.stderr.splitlines()
    assert said[0] == "understood: female, 72 years, cardiomegaly"
    assert all("generate:" in line for line in said[1:] if line)  # the progress bar alone: libraries keep quiet
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [(row["file_name"], row["seed"]) for row in rows] == [("00000.png", 3), ("00001.png", 4)]


def test_generate_warns_of_words_the_model_never_saw(cli: Cli, tiny_model: Path) -> None:
    prompt = "72 year old female. Large right pleural effusion. Tree."
    ended = cli("generate", prompt, "-o", "out", "--model", tiny_model, "settings.steps=2", "--json")
    assert ended.code == 0 and json.loads(ended.out) == ["out/00000.png"]
    assert "warning: the model never saw 'large', 'tree'; it is told '72 year old female. Right pleur" in ended.err
    assert "warning: only 7 training images showed Pleural Effusion; don't rely on it" in ended.err


def test_words_become_config_overrides_or_prompts(cli: Cli) -> None:
    Path("mine.yaml").write_text("prompts: [Edema.]\noutput: there\ncount: 3\n")
    flags = ("-n", "5", "--guidance", "1.5", "--finding-guidance", "2")
    ended = cli("generate", "mine.yaml", "settings.sampler=ddim", *flags, "--dry-run")
    assert ended.code == 0
    lines = ("- Edema.", "output: there", "count: 5", "  sampler: ddim", "  guidance: 1.5", "  finding_guidance: 2.0")
    for line in lines:
        assert line in ended.out.splitlines()
    asked = cli("generate", "mine.yaml", "Pneumonia, pH = 7.", "No edema.", "--dry-run").out.splitlines()
    assert asked[:3] == ["prompts:", "- Pneumonia, pH = 7.", "- No edema."]
    assert os.listdir() == ["mine.yaml"]


def test_prepare_and_verify(cli: Cli) -> None:
    source = Path("images")
    source.mkdir()
    rows = ["file_name,patient,findings"]
    for number in range(6):
        write_png(source / f"{number}.png", np.full((40, 50), 20 * number, np.uint8))
        rows.append(f"{number}.png,p{number},Pleural Effusion")
    (source / "metadata.csv").write_text("\n".join(rows) + "\n")
    words = ["prepare", "source=folder", "root=images", "output=data"]
    assert cli(*words, "--dry-run").out.startswith("source: folder\nroot: images\noutput: data\n")
    assert not Path("data").exists()
    assert json.loads(cli(*words, "--json").out)["images"] == 6
    digest = sha256_file("data/SHA256SUMS")
    assert cli("verify", "data") == (0, f"data: 5 files, all as written; sha256 of SHA256SUMS: {digest}\n", "")
    assert len(Dataset.open(Path("data"))) == 6
    shard = next(Path("data/shards").iterdir())
    damaged = bytearray(shard.read_bytes())
    damaged[600] ^= 1
    shard.write_bytes(damaged)
    ended = cli("verify", "data", "--json")
    assert ended.code == 1 and any(shard.name in problem for problem in json.loads(ended.out)["problems"])


def test_train_dry_run_prints_a_config_that_is_an_input(cli: Cli) -> None:
    printed = cli("train", "data=[a]", "output=b", "denoiser.steps=7", "--dry-run").out
    Path("resolved.yaml").write_text(printed)
    assert "steps: 7" in printed and cli("train", "resolved.yaml", "--dry-run").out == printed
    assert os.listdir() == ["resolved.yaml"]


BAD = [  # the command, and what its one line says
    (("generate", "conditions.yaml"), ["conditions.yaml", "pleural efusion", "did you mean 'Pleural Effusion'?"]),
    (("generate", "400 year old female.", "-o", "out"), ["age = 400", "0 to 120"]),
    (("generate", HEART, "-o", "out", "settings.stepz=3"), ["settings.stepz", "did you mean 'steps'?"]),
    (("generate", HEART, "-o", "out", "stepz=3"), ["stepz", "known key"]),
    (("generate", HEART, "-o", "out", "--sampler", "ddmi"), ["settings.sampler", "did you mean 'ddim'?"]),
    (("generate", HEART, "-o", "out", "--steps", "0"), ["settings.steps = 0", "must be >= 1"]),
    (("generate", HEART), ["output is missing", "output=VALUE"]),
    (("generate", "-o", "out"), ["nothing to draw"]),
    (("generate", HEART, "-o", "out", "--model", "nowhere"), ["'nowhere'", "folder in the diffusers layout"]),
    (("generate", HEART, "-o", "out", "--model", "weightless"), ["weightless", "restore"]),
    (("generate", HEART, "-o", "out", "nowhere.yaml"), ["nowhere.yaml", "no such file"]),
    (("prepare", "source=nih", "root=nowhere", "output=out"), ["nowhere", "give another root"]),
    (("prepare", "source=nihh", "root=source", "output=out"), ["source = 'nihh'", "did you mean 'nih'?"]),
    (("prepare", "source=folder", "root=source", "output=out"), ["source/a.png", "not a PNG"]),
    (("prepare", "source=labels", "root=labels", "output=out"), ["source = 'labels'"]),
    (("prepare", "source=folder", "root=labels", "output=out"), ["row", "efusion", "did you mean"]),
    (("train", "data=[nowhere]", "output=out"), ["nowhere", "dataset"]),
    (("train", "data=[nowhere]", "output=out", "denoiser.learning_rate=-1"), ["denoiser.learning_rate = -1", "> 0"]),
    (("train", "some words"), ["'some words'", "CONFIG.yaml or key.path=value"]),
    (("verify", "source"), ["source", "SHA256SUMS"]),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=lambda part: " ".join(part)[:50])
def test_a_mistake_is_one_line_and_leaves_nothing(
    cli: Cli, tiny_model: Path, words: tuple[str, ...], says: list[str]
) -> None:
    Path("conditions.yaml").write_text("conditions: [{findings: [pleural efusion]}]\noutput: out\n")
    Path("source").mkdir()
    Path("source/metadata.csv").write_text("file_name,patient\na.png,p\n")
    Path("source/a.png").write_text("not a picture")
    Path("labels").mkdir()
    Path("labels/metadata.csv").write_text("file_name,patient,findings\na.png,p,pleural efusion\n")
    write_png(Path("labels/a.png"), np.zeros((8, 8), np.uint8))
    shutil.copytree(tiny_model, "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    ended = cli(*words)
    assert (ended.code, ended.out) == (2, ""), ended
    *before, last = ended.err.splitlines()
    assert last.startswith("error: ") and all(part in last for part in says), ended.err
    assert not any("error" in line.lower() or "Traceback" in line for line in before)
    # The list of what can't be used lies beside the dataset that there isn't, for the user to read.
    left = {path.name for path in Path().iterdir()} - {"out.quarantine.jsonl"}
    assert left == {"conditions.yaml", "source", "labels", "weightless"}


def test_wrong_usage_exits_with_2(cli: Cli) -> None:
    for words in (["generat"], ["generate", HEART, "-n", "many"], ["verify"], ["demo", "--port", "0"]):
        ended = cli(*words)
        assert ended.code == 2 and ended.out == "" and "Traceback" not in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_without_a_traceback(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    def interrupted(config: object) -> None:
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 5)  # the handler runs in here at the latest

    monkeypatch.setattr("synthcxr.data.prepare.run", interrupted)
    ended = cli("prepare", "source=nih", "root=a", "output=b")
    assert ended.code == code and "Traceback" not in ended.err
