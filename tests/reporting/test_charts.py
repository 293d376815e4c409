"""Charts of histories."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pmni.reporting import charts


def test_every_numeric_column_of_the_history_is_in_a_chart(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(
        "step,seconds,loss,normal,rate,inv_s,new_thing,remark\n"
        "10,1,0.5,0.4,1e-3,100,7,x\n20,2,0.3,,5e-4,200,8,y\n",
        encoding="utf-8",
    )
    named = charts.history_charts(charts.read_history(path))
    traces = {t["name"]: t for _, chart in named for t in chart["traces"]}
    assert set(traces) == {"loss", "normal", "rate", "inv_s", "new_thing"}
    assert traces["loss"]["x"] == [10, 20]
    assert traces["normal"]["y"] == [0.4, None]


def test_a_long_history_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    pd.DataFrame({"step": np.arange(5000), "loss": np.arange(5000) + 1.0}).to_csv(path)
    steps = charts.read_history(path)["step"]
    assert len(steps) == charts.MAX_CURVE_POINTS
    assert (steps.iloc[0], steps.iloc[-1]) == (0, 4999)


def test_a_file_that_is_no_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="step"):
        charts.read_history(path)


def test_the_refinement_is_charted_with_its_grids(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(
        "iteration,cells,seconds,normal_residual_deg,rotation_change_deg,normal_tilt_bias,focal_factor\n"
        "1,64,0.1,9,0,0,1\n2,64,0.2,7,0,0.01,1\n3,128,0.4,6,0,0.02,1\n",
        encoding="utf-8",
    )
    named = dict(charts.refinement_charts(charts.read_history(path, "iteration")))
    # fixed cameras do not turn, and a factor that never changes says nothing
    assert list(named) == [
        "Residual of the normals, degrees",
        "Tilt bias of the normals, common to all views",
    ]
    for chart in named.values():
        assert chart["marks"] == [{"x": 0.5, "text": "64³"}, {"x": 2.5, "text": "128³"}]
        assert chart["traces"][0]["x"] == [1, 2, 3]
