"""One tidy table of everything, with the published numbers beside ours."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pmni.cli.collect import COLUMNS, tabulate
from pmni.cli.main import main
from pmni.errors import InputError

PUBLISHED = Path(__file__).parents[2] / "resources/published.csv"


def row(name: str, experiment: str = "default", iteration: int = 1000, **numbers):
    known = dict.fromkeys(COLUMNS) | {"dataset": "demo", "source": "ours", "alignment": "icp"}
    known |= {"object": name, "experiment": experiment, "iteration": iteration}
    return known | {"chamfer_mm": 0.1, "vertices": 1234, "watertight": True, **numbers}


def write(folder: Path, *rows) -> list[str]:
    paths = []
    for number, content in enumerate(rows):
        path = folder / f"{number}.json"
        path.write_text(json.dumps(content))
        paths.append(str(path))
    return paths


def test_rows_are_in_the_same_order_whatever_the_order_of_the_files():
    rows = [
        row("pot", iteration=2000),
        row("pot", iteration=900),
        row("blob", experiment="z"),
        row("blob", experiment="a"),
        row("blob", dataset="another"),
    ]
    table = tabulate(rows, None)
    keys = table[["dataset", "object", "experiment", "iteration"]].to_numpy().tolist()
    assert keys == [
        ["another", "blob", "default", 1000],
        ["demo", "blob", "a", 1000],
        ["demo", "blob", "z", 1000],
        ["demo", "pot", "default", 900],
        ["demo", "pot", "default", 2000],
    ]
    pd.testing.assert_frame_equal(table, tabulate(rows[::-1], None))


def test_columns_come_in_order_and_further_numbers_after_them():
    table = tabulate([row("pot", missed=0.1, similarity={"scale": 1}), row("b", a_detail=2)], None)
    assert list(table.columns) == [*COLUMNS, "a_detail", "missed"]


def test_published_rows_follow_ours_of_the_same_object():
    published = pd.DataFrame(
        {
            "dataset": "demo",
            "object": ["pot", "blob"],
            "experiment": "Another method",
            "iteration": None,
            "chamfer_mm": [0.3, 0.2],
            "source": "A paper",
        }
    )
    table = tabulate([row("pot"), row("blob", experiment="z")], published)
    assert table[["object", "source"]].to_numpy().tolist() == [
        ["blob", "ours"],
        ["blob", "A paper"],
        ["pot", "ours"],
        ["pot", "A paper"],
    ]
    assert table["chamfer_mm"].tolist() == [0.1, 0.2, 0.1, 0.3]
    assert table["iteration"].isna().tolist() == [False, True, False, True]


def test_the_last_row_of_an_experiment_is_its_result_unless_the_rows_say_otherwise():
    rows = [
        row("pot", iteration=0),
        row("pot", iteration=500),
        row("pot", "fast", iteration=0),
        row("pot", "short", iteration=0, kept=True),
        row("pot", "short", iteration=500, kept=False),
    ]
    published = pd.DataFrame([{"dataset": "demo", "object": "pot", "experiment": "Theirs"}])
    table = tabulate(rows, published)
    kept = table[table["kept"].fillna(False)]
    assert kept[["experiment", "iteration"]].to_numpy().tolist() == [
        ["default", 500],
        ["fast", 0],
        ["short", 0],
    ]
    assert table["kept"].isna().tolist() == [False] * 5 + [True]


def test_what_a_training_selected_is_kept(tmp_path, caplog):
    """A training that has not finished has no result; one without a comparison ends in the last."""
    words = ["collect", "--output", str(tmp_path / "table.csv"), "--metrics"]
    selections = []
    for name, content in (("a", '{"iteration": 0}'), ("b", '{"iteration": 500}'), ("c", None)):
        folder = tmp_path / "results" / name / "pot"
        (folder / "metrics").mkdir(parents=True)
        words += write(folder / "metrics", row("pot", name, 0), row("pot", name, 500))
        selections.append(folder / "train/selection.json")
        if content is not None:
            selections[-1].parent.mkdir()
            selections[-1].write_text(content)
    assert main([*words, "--selections", *map(str, selections)]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["kept"].tolist() == [True, False, False, True, False, False]
    assert "results/c/pot/train/selection.json: missing; no iteration" in caplog.text


def test_a_damaged_selection_is_an_error(tmp_path, capsys):
    path = tmp_path / "selection.json"
    path.write_text("{}")
    words = ["collect", "--selections", str(path), "--output", str(tmp_path / "table.csv")]
    assert main(words) == 2
    assert "selection.json: not a selection; run `pmni train` again" in capsys.readouterr().err


def test_a_row_given_twice_is_an_error():
    with pytest.raises(InputError, match="given twice: demo pot default 1000"):
        tabulate([row("pot"), row("pot", chamfer_mm=0.5)], None)


def test_the_table_on_disk(tmp_path, caplog):
    paths = write(tmp_path, row("pot"), row("blob", mae_deg=2.5))
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


def test_a_table_of_nothing(tmp_path):
    assert main(["collect", "--output", str(tmp_path / "table.csv")]) == 0
    assert (tmp_path / "table.csv").read_text().strip() == ",".join(COLUMNS)


def test_published_numbers_alone(tmp_path):
    words = ["collect", "--published", str(PUBLISHED), "--output", str(tmp_path / "table.csv")]
    assert main(words) == 0
    table = pd.read_csv(tmp_path / "table.csv").set_index(["experiment", "object"])
    assert table.loc[("RNb-NeuS", "pot2"), "chamfer_mm"] == 0.16
    assert table.loc[("RNb-NeuS", "buddha"), "mae_deg"] == 8.17
    assert table.loc[("MVPSNet", "mean"), "mae_deg"] == 8.18
    assert table.loc[("Li19", "cow"), ["mae_deg"]].isna().all()


def test_published_means_are_those_of_the_objects():
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
def test_damaged_metrics_are_an_error(tmp_path, capsys, content, message):
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
def test_published_numbers_that_cannot_be_used(tmp_path, capsys, content, message):
    path = tmp_path / "published.csv"
    if content is not None:
        path.write_text(content)
    assert main(["collect", "--published", str(path), "--output", str(tmp_path / "t.csv")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()
