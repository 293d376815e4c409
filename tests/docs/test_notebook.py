"""The notebook of the documentation runs from its first cell to its last."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs/tutorials/quickstart.ipynb"


@pytest.mark.workflow
def test_quickstart_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = {
        cell.id: "".join(each.get("data", {}).get("text/plain", "") for each in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    numbers = json.loads(outputs["cell-09"].replace("'", '"'))
    assert numbers["chamfer_mm"] < 0.6
    assert numbers["rotation_error_mean_deg"] < 1
    assert float(outputs["cell-11"].strip("np.float64()")) < 1e-6


def test_notebook_is_committed_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
