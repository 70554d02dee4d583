"""The notebook of the documents runs from its first cell to its last, and is kept without outputs."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from diva_grpo.pipeline.store import VariantStore
from tests.support.documents import ROOT

pytestmark = pytest.mark.docs
NOTEBOOK = ROOT / "docs" / "start" / "notebook.ipynb"


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_no_output_is_kept(notebook: Any) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
    assert all(not cell.metadata for cell in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs(notebook: Any, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60, "seconds of CPU"
    printed = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    )
    assert printed.startswith("9 problems added\n")
    curve = [float(share) for share in re.findall(r"^steps .* (\d\.\d\d) of ", printed, re.MULTILINE)]
    assert len(curve) == 8
    assert curve[0] < 0.2 < 0.5 < curve[-1], "it learns"
    assert "4+1= '" in printed
    store = VariantStore(tmp_path / "runs" / "notebook")
    assert store.query("select kind, outcome from runs") == [("train", "ok")]
    assert store.query("select count(*) from rollouts where completion is not null") == [(80 * 128,)]
