"""Write the interface document to `openapi.json`: `python -m tests.contract.write_openapi`."""

import json
from pathlib import Path

from app.main import create_app
from app.settings import Settings

PATH = Path(__file__).parents[2] / "openapi.json"


def text() -> str:
    """Return the document as it is committed."""
    document = create_app(Settings(_env_file=None)).openapi()
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
