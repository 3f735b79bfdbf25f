"""What a page of HTML would have a browser do: its tags, what it refers to, the text that a person reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_REFERRING = ("href", "src", "srcset", "action", "data", "poster", "background", "xlink:href", "formaction")
_SILENT = ("style", "script", "title")


@dataclass(frozen=True)
class Parsed:
    """`tags` with their attributes in order; `texts` without style and script."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def named(self, tag: str) -> list[dict[str, str]]:
        """The attributes of each such tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def references(self) -> list[str]:
        """Whatever names something outside of the page or inside."""
        return [attributes[name] for _, attributes in self.tags for name in _REFERRING if name in attributes]

    @property
    def handlers(self) -> list[str]:
        """Attributes that would run a script."""
        return [name for _, attributes in self.tags for name in attributes if name.startswith("on")]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parsed = Parsed()
        self._within: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parsed.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag in _SILENT:
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        if not self._within and data.strip():
            self.parsed.texts.append(data.strip())


def parse(html: str) -> Parsed:
    """The page."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    return parser.parsed
