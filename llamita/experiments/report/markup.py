"""HTML and SVG elements as text. Plain strings are escaped; only what `element` made is taken as it is."""

from html import escape

VOID = "input", "link", "meta"
"""Elements of HTML without content and end tag."""


class Markup(str):
    """Text that is HTML already: `element` escapes every other string."""


def element(tag: str, *children: str | None, **attributes: str | float | bool | None) -> Markup:
    """`element("a", "x < y", class_="b", aria_label="c")` -> `<a class="b" aria-label="c">x &lt; y</a>`.

    Children and attributes that are None are left out; an attribute that is True has no value.
    """
    words = [tag, *(_attribute(name, value) for name, value in attributes.items() if value not in (None, False))]
    return Markup(f"<{' '.join(words)}>" + ("" if tag in VOID else f"{join(*children)}</{tag}>"))


def join(*children: str | None) -> Markup:
    """Children one after the other, escaped where they are not markup."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children if child))


def _attribute(name: str, value: str | float | bool | None) -> str:
    name = name.removesuffix("_").replace("_", "-")
    if value is True:
        return name
    return f'{name}="{escape(f"{value:g}" if isinstance(value, float) else str(value))}"'
