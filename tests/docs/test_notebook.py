"""The notebook runs as it stands, against the shipped models."""

from pathlib import Path

import nbclient
import nbformat

from tests.docs.conftest import ADDRESSES, ENVIRONMENT, ROOT
from tests.e2e.conftest import Server

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def read(text: str) -> nbformat.NotebookNode:
    return nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]


def test_it_runs(server: Server, checkout: Path) -> None:
    text = NOTEBOOK.read_text()
    assert ADDRESSES[0] in text
    notebook = read(text.replace(ADDRESSES[0], server.url.removeprefix("http://")))
    # A notebook's own folder is where its paths begin.
    resources = {"metadata": {"path": str(checkout / "docs")}}
    client = nbclient.NotebookClient(notebook, timeout=120, resources=resources)
    client.execute(env=ENVIRONMENT)

    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert all(outputs[:-1]), "every cell but the last, which closes, shows something"
    assert "image/png" in outputs[2][0].data
    assert "DamagedImage" not in str(outputs)
    batch = "".join(output.text for output in outputs[-2])
    assert sorted(batch.splitlines()) == ["0 Result", "1 FileNotFoundError", "2 UnsupportedFormat"]


def test_it_is_kept_without_outputs() -> None:
    notebook = read(NOTEBOOK.read_text())
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
