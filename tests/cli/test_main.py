"""`pmni <stage>`: help, one-line errors and exit codes."""

import argparse
import errno
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pmni
from pmni.cli import main as cli
from pmni.errors import InputError
from pmni.runtime.stages import STAGES


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`prepare`, replaced by a stage that does as the test says through `stage.act`."""
    module = ModuleType("fake_stage")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--output", type=Path, required=True)

    def run(args: argparse.Namespace) -> None:
        module.act(args)

    module.add_arguments = add_arguments  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setattr(cli, "import_module", lambda name: module)
    return module


def test_a_stage_gets_its_arguments(stage: ModuleType) -> None:
    seen: list[Path] = []
    stage.act = lambda args: seen.append(args.output)
    assert cli.main(["prepare", "--output", "there"]) == 0
    assert seen == [Path("there")]


def test_a_user_error_is_one_line_and_exit_code_2(
    stage: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(args: argparse.Namespace) -> None:
        raise InputError("mask/03.png: empty; paint the object white")

    stage.act = act
    assert cli.main(["prepare", "--output", "there"]) == 2
    assert capsys.readouterr().err == (
        "pmni prepare: error: mask/03.png: empty; paint the object white\n"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a.npz"),
            "a.npz: No space left on device",
        ),
        (OSError("odd"), "odd"),
    ],
)
def test_a_full_disk_is_one_line(
    stage: ModuleType, capsys: pytest.CaptureFixture[str], error: OSError, line: str
) -> None:
    def act(args: argparse.Namespace) -> None:
        raise error

    stage.act = act
    assert cli.main(["prepare", "--output", "there"]) == 2
    assert capsys.readouterr().err == f"pmni prepare: error: {line}\n"


def test_a_defect_is_not_hidden(stage: ModuleType) -> None:
    def act(args: argparse.Namespace) -> None:
        raise ZeroDivisionError("ours")

    stage.act = act
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main(["prepare", "--output", "there"])


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["--nonsense"], ["prepare"]])
def test_wrong_arguments_exit_with_2(
    stage: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: pmni" in capsys.readouterr().err


def test_help_lists_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for entry in STAGES.values():
        assert f"{entry.name} {entry.summary}" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"pmni {pmni.__version__}\n"


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert STAGES[name].summary in " ".join(text.split())
    assert "--output" in text


def test_asking_for_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pmni.cli import main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("False False\n")
