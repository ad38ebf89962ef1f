"""The docs: built strictly, and each command in them is one that the command line takes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from synthcxr.cli import app
from synthcxr.cli.words import load, sort_words

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def commands() -> list[str]:
    """What follows `synthcxr` in the shell blocks of the pages, without comments and joined where it's continued."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.search(r"(?:^|&& |^\S+ )synthcxr (.*)", re.sub(r"\s#.*", "", line)):
                    found.append(match[1].strip())
    return sorted({one for one in found if "..." not in one and one.split()[0].islower()})


def config_class(verb: str) -> type | None:
    """The Config of a verb that takes one."""
    from synthcxr.data.curate.config import CurateConfig
    from synthcxr.data.prepare import PrepareConfig
    from synthcxr.downstream.config import DownstreamConfig
    from synthcxr.evaluation.config import AuditConfig, EvaluateConfig
    from synthcxr.synthesis.config import SynthesizeConfig
    from synthcxr.synthesis.screen.calibrate import CalibrateConfig
    from synthcxr.train.config import TrainConfig

    return {
        "curate": CurateConfig, "prepare": PrepareConfig, "audit": AuditConfig, "evaluate": EvaluateConfig,
        "synthesize": SynthesizeConfig, "calibrate": CalibrateConfig, "train": TrainConfig,
        "downstream": DownstreamConfig,
    }.get(verb)  # fmt: skip


def test_there_are_commands() -> None:
    assert len(commands()) > 15


@pytest.mark.parametrize("command", commands())
def test_a_command_in_the_docs_is_valid(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    verb, *words = shlex.split(command)
    if cls := config_class(verb):
        options = [word for word in words if word.startswith("--")]
        config, overrides, rest = sort_words([word for word in words if not word.startswith("--")], cls)
        assert rest == [] and set(options) <= {"--dry-run", "--json", "--fresh"}
        load(cls, config, overrides)
    elif verb in ("generate", "export"):
        result = CliRunner().invoke(app, [verb, *words, "--dry-run"])
        assert result.exit_code == 0, (result.output, result.exception)
    else:
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0


def test_pages_build_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "reference" / "conditions" / "index.html").is_file()


def test_nothing_is_fetched_from_elsewhere() -> None:
    """Pages and the demo's style name no other host for fonts, scripts or pictures."""
    from synthcxr.demo.style import CSS

    assert "http" not in CSS and "@import" not in CSS
    for page in PAGES:
        assert not re.search(r"!\[[^]]*\]\(https?:", page.read_text(encoding="utf-8")), page
