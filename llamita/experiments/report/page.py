"""The page: one HTML file with its style, its script and all data, which requests nothing from anywhere."""

from collections.abc import Sequence
from pathlib import Path

from llamita.experiments.report.markup import Markup, element, join

HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The browser refuses to load anything else."""


def page(title: str, sections: Sequence[Markup | None]) -> str:
    """The whole file."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", _own("page.css")),
    )
    tip = element("div", id="tip", class_="tip", role="status", hidden=True)
    body = element("body", element("main", element("h1", title), *sections), tip, element("script", _own("page.js")))
    return "<!doctype html>\n" + join(element("html", head, body, lang="en")) + "\n"


def _own(name: str) -> Markup:
    """A file beside this one."""
    return Markup((HERE / name).read_text(encoding="utf-8"))
