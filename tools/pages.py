"""The course as a web site: the stored notebooks, not run again, the glossary, and the README as the first page.

usage: pages.py [FOLDER]    write it into FOLDER, or out/site

Neither building nor reading it needs a network: pages, figures, search, mathematics and the playground are all in the folder.
A lesson says where a piece of the playground stands: <!-- playground: mask -->, which only the site shows.
"""

from __future__ import annotations

import ast
import html
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from PIL import Image
from sphinx.application import Sphinx

import lessons
import playground

PLAYGROUND = re.compile(r"<!-- playground: (?P<parts>[a-z ]+) -->")
COLAB = re.compile(r"\[!\[Open in Colab\]\(https://colab[^)]*\)\]\((?P<link>[^)]*)\)")
STYLE = """
.cell_output pre { overflow-x: auto }
.tag_exercise .cell_output pre, .tag_solution .cell_output pre { white-space: pre-wrap }  /* a check answers in words */
div.cell.tag_exercise div.cell_input { border-left-color: darkorange }
div.main { min-width: 0 }  /* a wide output scrolls in its own box, not the page */
.content { width: min(52em, 100%) }  /* a line of code has up to 100 characters */
details.hide { margin: 1em 0 }
"""
SETTINGS = {
    "project": "PicoGPT",
    "html_title": "PicoGPT",
    "html_theme": "furo",
    "extensions": ["myst_nb", "pages"],  # the second is this file: see setup()
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "myst_enable_extensions": ["dollarmath"],  # as in Jupyter
    "myst_heading_anchors": 3,
    "html_math_renderer": "mathml",
    "html_show_search_summary": False,  # it would fetch pages, which a browser refuses for file://
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_css_files": ["pages.css"],
    "html_static_path": ["_static"],
}


def to_mathml(writer, node) -> None:
    """Convert mathematics at build time: browsers draw MathML themselves, while MathJax would have to be fetched."""
    writer.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (to_mathml, None), (to_mathml, None))
    return {"parallel_read_safe": True}


def alternative(source: str, heading: str) -> str:
    """Describe a figure for a screen reader: the heading above it, and the titles and labels that its code sets."""
    named = ("title", "xlabel", "ylabel", "label")
    phrases: dict[str, None] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            setter = getattr(node.func, "attr", "").removeprefix("set_").replace("suptitle", "title")
            values = [k.value for k in node.keywords if k.arg in named] + (node.args[:1] if setter in named else [])
            for value in values:
                composed = {id(part) for f in ast.walk(value) if isinstance(f, ast.JoinedStr) for part in ast.walk(f)}
                for part in ast.walk(value):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in composed:
                        phrases[part.value] = None
    return ": ".join(filter(None, (heading, ", ".join(phrases)))).replace('"', "'")


def page_of(notebook: Path) -> nbformat.NotebookNode:
    """Return a lesson as the site shows it: solutions folded, lessons linked, the badge (a remote picture) in words."""
    lesson = nbformat.read(notebook, as_version=4)
    pages = {script.stem[:2]: f"{script.stem}.ipynb" for script in lessons.scripts()}

    def linked(match: re.Match) -> str:
        page = pages.get(match["number"])
        return f"[{match[0]}]({page})" if page and page != notebook.name else match[0]

    edit, heading = f"{lessons.address()}/edit/main/notebooks/{notebook.stem}.py", ""
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            heading = ([line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")] or [heading])[-1]
        elif any("image/png" in output.get("data", {}) for output in cell.outputs):
            cell.metadata["mystnb"] = {"image": {"alt": alternative(cell.source, heading)}}
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            tags = cell.metadata.setdefault("tags", [])
            what = "solution" if "solution" in tags else "code"  # lesson 13 folds its patients
            prompts = {f"code_prompt_{do}": f"{do.capitalize()} the {what}" for do in ("show", "hide")}
            cell.metadata["mystnb"] = cell.metadata.get("mystnb", {}) | prompts
            tags.append("hide-cell")
        if cell.cell_type == "markdown":
            cell.source = COLAB.sub(rf"[Open in Colab](\g<link>) · [Edit on GitHub]({edit})", cell.source)
            cell.source = cell.source.replace("](../docs/glossary.md", "](glossary.md")
            cell.source = cell.source.replace("](../figures/", "](figures/")
            cell.source = with_playground(cell.source)
            cell.source = cell.source.replace("](../", f"]({lessons.address()}/blob/main/")  # all else is on GitHub
            cell.source = re.sub(r"(?<!\[)\b[Ll]esson (?P<number>\d\d)\b(?!\])", linked, cell.source)
    return lesson


def piece(parts: str, before: str = "") -> str:
    """Return the HTML of a piece of the playground, which loads its models when the reader asks for them."""
    names = ("honest", "unmasked") if "mask" in parts else ("picogpt",)
    size = sum(len(playground.script(name)) for name in names) / 1e6
    missing = "Here a part of the playground stands, where scripts are allowed."
    return (
        f'<div data-playground="{parts}" data-wait="{size:.1f} MB">{before}<p data-fallback>{missing}</p></div>'
        '<link rel="stylesheet" href="playground/playground.css"><script defer src="playground/picogpt.js"></script>'
        '<script defer src="playground/playground.js"></script>'
    )


def with_playground(text: str) -> str:
    """Put the pieces of the playground into a Markdown text, and lead its links there. (Sphinx knows no page of that name.)"""
    text = PLAYGROUND.sub(lambda match: piece(match["parts"]), text)
    return re.sub(r"\[([^]]+)\]\((?:\.\./)?web/playground\.html\)", r'<a href="playground/playground.html">\1</a>', text)


def first_page() -> str:
    """Return the README with its links adapted: lessons are pages here, figures come along, all else is on GitHub.

    In place of its animation of the playground stands the playground itself, with the animation for a poster.
    """

    def adapted(match: re.Match) -> str:
        path = match["path"]
        if path.startswith("notebooks/") and path.endswith(".ipynb"):
            return f"]({path.removeprefix('notebooks/')})"
        if path == "docs/glossary.md":
            return "](glossary.md)"
        return match[0] if path.startswith("figures/") else f"]({lessons.address()}/blob/main/{path})"

    text = (lessons.ROOT / "README.md").read_text(encoding="utf-8")
    text = COLAB.sub(r"[Open in Colab](\g<link>)", text)
    poster = re.search(r"!\[(?P<alt>[^]]*)\]\(figures/playground\.\w+\)", text)
    if poster is None:
        raise RuntimeError(
            "the README shows no figures/playground.*, which marks the place of the playground on the first page"
        )
    still = '<source srcset="playground/still.png" media="(prefers-reduced-motion: reduce)">'
    picture = f'<picture>{still}<img src="playground/{playground.ANIMATION.name}" alt="{html.escape(poster["alt"])}"></picture>'
    text = with_playground(text.replace(poster[0], piece("write heads", picture)))
    text = re.sub(r"\]\((?!https?://|#)(?P<path>[^)]+)\)", adapted, text)
    names = "\n".join(script.stem for script in lessons.scripts())
    return f"{text}\n```{{toctree}}\n:hidden:\n\n{names}\nglossary\n```\n"


def write(target: Path) -> None:
    """Build the site into `target`. Raise RuntimeError if Sphinx warns, for example of a broken link."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        for script in lessons.scripts():
            nbformat.write(page_of(script.with_suffix(".ipynb")), source / f"{script.stem}.ipynb")
        (source / "index.md").write_text(first_page(), encoding="utf-8")
        shutil.copy(lessons.ROOT / "docs" / "glossary.md", source)
        shutil.copytree(lessons.ROOT / "figures", source / "figures")
        (source / "_static").mkdir()
        (source / "_static" / "pages.css").write_text(STYLE)
        shutil.rmtree(target, ignore_errors=True)
        warnings = io.StringIO()
        Sphinx(source, None, target, source / ".doctrees", "html", SETTINGS, status=None, warning=warnings).build()
        if warnings.getvalue():
            raise RuntimeError(warnings.getvalue())
    write_playground(target / "playground")


def write_playground(folder: Path) -> None:
    """Write the playground and all that its pieces need into `folder`, with a link back to the course."""
    shutil.copytree(playground.WEB, folder, ignore=shutil.ignore_patterns("weights"))
    playground.write_weights(folder / "weights")
    page = folder / "playground.html"
    place, link = "<!-- the site puts a link to the course here -->", '<p><a href="../index.html">The course</a></p>'
    page.write_text(page.read_text(encoding="utf-8").replace(place, link), encoding="utf-8")
    shutil.copy(playground.ANIMATION, folder)
    with Image.open(playground.ANIMATION) as animation:  # for readers who want no motion
        animation.save(folder / "still.png")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else lessons.ROOT / "out" / "site"
    write(folder)
    print(f"{folder / 'index.html'}")
