"""Execute the notebook of the documentation, and write its page.

    python benchmarks/notebook.py

runs docs/how-to/notebook.ipynb in an empty folder, keeps what its cells show, and writes docs/how-to/notebook.md from
it. Jupyter is not needed.
"""

import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

PLACE = Path(__file__).resolve().parent.parent / "docs" / "how-to"
NOTEBOOK, PAGE = PLACE / "notebook.ipynb", PLACE / "notebook.md"

Cell = Mapping[str, Any]


def source(cell: Cell) -> str:
    """Return a cell's text."""
    return "".join(cell["source"])


def execute(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Run a notebook's code in the working directory.

    Args:
        cells: its cells.

    Returns:
        The cells, with what they show.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    done, count = [], 0
    for cell in cells:
        if cell["cell_type"] != "code":
            done.append(dict(cell))
            continue
        count += 1
        tree = ast.parse(source(cell))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, f"cell {count}", "exec"), namespace)
            value = None
            if last is not None:
                value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), namespace)
        outputs: list[dict[str, Any]] = []
        if printed.getvalue():
            outputs.append({"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())})
        if value is not None:
            result = {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data(value)}
            outputs.append(result)
        done.append({**cell, "execution_count": count, "outputs": outputs})
    return done


def data(value: Any) -> dict[str, Any]:
    """Return what a notebook shows of a value, by media type."""
    found: dict[str, Any] = {"text/plain": lines(repr(value))}
    if hasattr(value, "_repr_png_"):
        found["image/png"] = base64.b64encode(value._repr_png_()).decode()
    elif hasattr(value, "_repr_html_"):
        found["text/html"] = lines(value._repr_html_())
    return found


def lines(text: str) -> list[str]:
    """Return text as notebooks keep it."""
    return text.splitlines(keepends=True)


def page(cells: Sequence[Cell]) -> str:
    """Return the page that shows an executed notebook."""
    told = []
    for cell in cells:
        if cell["cell_type"] != "code":
            told.append(source(cell))
            continue
        told.append(f"```python\n{source(cell)}\n```")
        told += [shown(output) for output in cell["outputs"]]
    return "\n\n".join(told) + "\n"


def shown(output: Cell) -> str:
    """Return what a cell shows as Markdown."""
    if output["output_type"] == "stream":
        return f"<pre>{escape(''.join(output['text'])).rstrip()}</pre>"
    content = output["data"]
    if "image/png" in content:
        return f'<img alt="figure" src="data:image/png;base64,{content["image/png"]}">'
    html = "".join(content.get("text/html", ())) or f"<pre>{escape(''.join(content['text/plain']))}</pre>"
    return f"<div>\n{html}\n</div>"


def main() -> None:
    """Write notebook and page anew."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            notebook["cells"] = execute(notebook["cells"])
        finally:
            os.chdir(home)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(notebook["cells"]), encoding="utf-8")


if __name__ == "__main__":
    main()
