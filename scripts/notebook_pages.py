"""Makes a page of each notebook when the site is built: a hook of MkDocs, named in mkdocs.yml. No cell is run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(\]\([^)\s]*)\.ipynb(?=[)#])")


def to_markdown(notebook: dict[str, Any], name: str) -> str:
    """The cells as Markdown, what a cell printed below its code, and a link to the file `name`."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
    title, *rest = parts
    heading, _, beginning = title.partition("\n")
    download = f'<a href="../{name}" download>The notebook as a file</a>'
    return "\n\n".join([heading, download, beginning.strip(), *rest]) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each notebook; the notebook itself stays a file of the site."""
    from mkdocs.structure.files import File

    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            path = Path(file.abs_src_path)
            page = to_markdown(json.loads(path.read_text(encoding="utf-8")), path.name)
            files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to notebooks, which GitHub shows, lead to their pages."""
    return _LINK.sub(r"\1.md", markdown)
