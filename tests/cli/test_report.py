"""`pmni report`: one file, and clear errors."""

from pathlib import Path

import pytest
from fixtures.report_results import Tree, copy_results

from pmni.cli.main import main


@pytest.fixture
def tree(complete_results: Tree, tmp_path: Path) -> Tree:
    return copy_results(complete_results, tmp_path)


def test_the_command_writes_one_file(tree: Tree) -> None:
    words = ["report", "--results", str(tree.results), "--config-json", tree.argument]
    words += ["--settings", "{faces: 500, faces_early: 200, tile: 32}"]
    assert main([*words, "--output", str(tree.results / "report")]) == 0
    assert [path.name for path in (tree.results / "report").iterdir()] == ["index.html"]
    first = (tree.results / "report/index.html").read_bytes()
    assert main([*words, "--output", str(tree.results / "report")]) == 0
    assert (tree.results / "report/index.html").read_bytes() == first


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("{", "--config-json: not valid JSON"),
        ("[]", "--config-json: must be an object"),
        ('{"objects": [], "experiments": []}', "--config-json: 'objects'"),
        ('{"objects": [{"name": "a"}], "experiments": []}', "'objects.0.dataset'"),
    ],
)
def test_a_wrong_description_is_one_clear_line(
    tree: Tree, capsys: pytest.CaptureFixture[str], config: str, complaint: str
) -> None:
    words = ["report", "--results", str(tree.results), "--config-json", config]
    assert main([*words, "--output", str(tree.results / "report")]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tree.results / "report").exists()


def test_a_folder_that_is_not_there_is_one_clear_line(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", "--results", "nowhere", "--config-json", tree.argument]
    assert main([*words, "--output", str(tree.results / "report")]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
