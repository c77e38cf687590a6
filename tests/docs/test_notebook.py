"""The notebook of first steps runs from top to bottom, and lies in the repository without outputs."""

import json

import pytest

from tests.old_folders import ROOT

NOTEBOOK = ROOT / "docs/notebooks/first_steps.ipynb"


def test_the_notebook_lies_here_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert [cell["outputs"] for cell in code if cell["outputs"]] == []
    assert [cell["execution_count"] for cell in code if cell["execution_count"]] == []


@pytest.mark.slow
def test_the_notebook_makes_a_world_trains_on_it_and_evaluates(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "400 steps, last loss " in said
    for line in ("seed   before", "seed   after ", "gqa    before", "gqa    after ", "Scene Understanding"):
        assert line in said
    shown = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(shown) == 3
    assert (tmp_path / "output/sample_world_dataengine/first_steps/checkpoint_0.pth").is_file()
    assert (tmp_path / "evaluation_results/after/report.html").is_file()
