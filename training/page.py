"""One self-contained HTML file of tables, plots and pictures, for a person to read and pass on."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.figure import Figure
from numpy.typing import NDArray

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border-bottom: 1px solid #ccc; padding: .2rem .7rem; text-align: right }
td:first-child, th:first-child { text-align: left; white-space: nowrap }
figure { margin: 1.5rem 0 } img { max-width: 100% } figcaption { color: #555 }
"""


class Page:
    """A page that grows from top to bottom; whatever text it is given is escaped."""

    def __init__(self, title: str) -> None:
        """Begin a page, under its title."""
        self._title = escape(title)
        self._body = [f"<h1>{self._title}</h1>"]

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._body.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._body.append(f"<p>{escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; the first column names the rows."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        self._body.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def figure(self, figure: Figure, caption: str, *, png: Path | None = None) -> None:
        """Add a plot, and write it to a file of its own as well if `png` names one."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        if png is not None:
            png.write_bytes(buffer.getvalue())
        self._image("png", buffer.getvalue(), caption)

    def picture(self, pixels: NDArray[np.uint8], caption: str) -> None:
        """Add an image, uint8 (H, W, 3) RGB."""
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
        self._image("jpeg", buffer.getvalue(), caption)

    def write(self, path: Path) -> None:
        """Write the page; it refers to nothing outside of itself."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{self._title}</title><style>{_STYLE}</style></head>\n<body>\n"
            + "\n".join(self._body)
            + "\n</body></html>\n",
            encoding="utf-8",
        )

    def _image(self, kind: str, data: bytes, caption: str) -> None:
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        text = escape(caption)
        self._body.append(
            f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        )
