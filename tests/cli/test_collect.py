"""The stage `collect`: metrics files in, one table out."""

from pathlib import Path

import pandas as pd
import pytest
from fixtures.metrics_files import row, write_metrics

from pmni.cli.main import main
from pmni.evaluation.benchmark_table import benchmark_columns

COLUMNS = benchmark_columns()
PUBLISHED = Path(__file__).parents[2] / "resources/published.csv"


def test_what_a_training_selected_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A training that has not finished has no result; one without a comparison ends in the last."""
    words = ["collect", "--output", str(tmp_path / "table.csv"), "--metrics"]
    selections = []
    for name, content in (("a", '{"iteration": 0}'), ("b", '{"iteration": 500}'), ("c", None)):
        folder = tmp_path / "results" / name / "pot"
        (folder / "metrics").mkdir(parents=True)
        words += write_metrics(folder / "metrics", row("pot", name, 0), row("pot", name, 500))
        selections.append(folder / "train/selection.json")
        if content is not None:
            selections[-1].parent.mkdir()
            selections[-1].write_text(content)
    assert main([*words, "--selections", *map(str, selections)]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["kept"].tolist() == [True, False, False, True, False, False]
    assert "results/c/pot/train/selection.json: missing; no iteration" in caplog.text


def test_a_damaged_selection_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "selection.json"
    path.write_text("{}")
    words = ["collect", "--selections", str(path), "--output", str(tmp_path / "table.csv")]
    assert main(words) == 2
    assert "selection.json: not a selection; run `pmni train` again" in capsys.readouterr().err


def test_the_table_on_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = write_metrics(tmp_path, row("pot"), row("blob", mae_deg=2.5))
    words = ["collect", "--metrics", *paths, str(tmp_path / "absent.json")]
    words += ["--published", str(PUBLISHED), "--output", str(tmp_path / "table.csv")]
    assert main(words) == 0
    assert "absent.json: missing; left out" in caplog.text
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0].startswith(",".join(COLUMNS[:5]))
    assert lines[1].startswith(
        "demo,blob,default,1000,True,icp,0.1,,,2.5,"
    )  # whole numbers stay whole
    assert ",1234,True," in lines[1]
    table = pd.read_csv(tmp_path / "table.csv")
    assert (table["source"] == "ours").sum() == 2
    assert len(table) == 32


def test_a_table_of_nothing(tmp_path: Path) -> None:
    assert main(["collect", "--output", str(tmp_path / "table.csv")]) == 0
    assert (tmp_path / "table.csv").read_text().strip() == ",".join(COLUMNS)


def test_published_numbers_alone(tmp_path: Path) -> None:
    words = ["collect", "--published", str(PUBLISHED), "--output", str(tmp_path / "table.csv")]
    assert main(words) == 0
    table = pd.read_csv(tmp_path / "table.csv").set_index(["experiment", "object"])
    assert table.loc[("RNb-NeuS", "pot2"), "chamfer_mm"] == 0.16
    assert table.loc[("RNb-NeuS", "buddha"), "mae_deg"] == 8.17
    assert table.loc[("MVPSNet", "mean"), "mae_deg"] == 8.18
    assert table.loc[("Li19", "cow"), ["mae_deg"]].isna().all()


def test_published_means_are_those_of_the_objects() -> None:
    table = pd.read_csv(PUBLISHED).pivot(index="experiment", columns="object", values="chamfer_mm")
    off = (table.drop(columns="mean").mean(axis=1) - table["mean"]).abs()
    assert off.max() < 0.0061  # each is rounded to 0.01


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a metrics file"),
        ("[1]", "not a metrics file"),
        ('{"object": "pot"}', "not a metrics file"),
    ],
)
def test_damaged_metrics_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "m.json").write_text(content)
    words = ["collect", "--metrics", str(tmp_path / "m.json"), "--output", str(tmp_path / "t.csv")]
    assert main(words) == 2
    assert f"m.json: {message}" in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "not a CSV table"),
        ("dataset,object,experiment,iteration,chamfer\n", "wrong here: chamfer, source"),
    ],
)
def test_published_numbers_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "published.csv"
    if content is not None:
        path.write_text(content)
    assert main(["collect", "--published", str(path), "--output", str(tmp_path / "t.csv")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()
