"""MkDocs hook: links that leave docs/ work on the site too, without a repository to link to.

A page of docs/ links to a module or an example by its path, as a repository browser wants it. On the site
each such file is a page of its own: the source, or for a folder the list of what is in it. CHANGELOG.md is a
page as well. Where the text of a link is the name of a page, the site shows the page's title.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
# Of the repository to pages of the site.
NAMED = re.compile(r"\[([\w./-]+\.md)\](?=\(([^)#\s]+)(#[^)\s]*)?\))")
PAGES = {"CHANGELOG.md": "changelog.md", "README.md": "index.md"}
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the part of the navigation that is a folder: an example is in it as soon as its page is there."""
    pages = [path.relative_to(DOCS).as_posix() for path in sorted((DOCS / "examples").glob("*.md"))]
    # The page that introduces them comes first.
    pages.sort(key=lambda page: not page.endswith("/index.md"))
    for part in config.nav or []:
        if isinstance(part, dict) and "Examples" in part:
            part["Examples"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the changelog, and the pages of every file and folder that some page links to."""
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text()))
    for source in sorted(set(_linked_sources())):
        page = File.generated(config, _page_of(source), content=_source_page(source))
        files.append(page)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links that leave docs/ at the pages made for them."""
    del config, files
    if page.parent is None:
        # Alone in its part of the navigation: what would stand beside it is its own name.
        page.meta["hide"] = ["navigation"]
    home = _home(page.file.src_uri)

    def entitle(match: re.Match[str]) -> str:
        if match[1].rpartition("/")[2] != match[2].rpartition("/")[2]:
            return match[0]
        return f"[{_title((home / match[2]).resolve()) or match[1]}]"

    def redirect(match: re.Match[str]) -> str:
        target = _in_repository(home, match[1])
        if target is None:
            return match[0]
        here = posixpath.dirname(page.file.src_uri)
        return f"]({posixpath.relpath(_page_of(target), here or '.')}{match[2] or ''})"

    parts = FENCE.split(markdown)
    return "".join(
        part if part.startswith("```") else LINK.sub(redirect, NAMED.sub(entitle, part)) for part in parts
    )


def _title(path: Path) -> str | None:
    """The heading that a page opens with."""
    if not path.is_file():
        return None
    heading = re.search(r"^# (.+)$", path.read_text(), re.MULTILINE)
    return heading[1].replace("`", "") if heading else None


def _home(src_uri: str) -> Path:
    """The folder from which a page's links are meant."""
    return ROOT if src_uri == "changelog.md" else (DOCS / src_uri).parent


def _in_repository(home: Path, target: str) -> str | None:
    """Path from the root of what a link leads to, if its page lies elsewhere; None: MkDocs resolves it."""
    path = (home / target).resolve()
    if not path.is_relative_to(ROOT) or not path.exists() or (path.is_relative_to(DOCS) and home != ROOT):
        return None
    return path.relative_to(ROOT).as_posix()


def _page_of(source: str) -> str:
    """Where on the site a file of the repository is shown."""
    if source in PAGES:
        return PAGES[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    return f"source/{source}/index.md" if (ROOT / source).is_dir() else f"source/{source}.md"


def _linked_sources() -> Iterator[str]:
    """Files and folders outside docs/ that pages link to, and what lies in those folders."""
    for page in [ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]:
        for match in LINK.finditer(FENCE.sub("", page.read_text())):
            source = _in_repository(page.parent, match[1])
            if source is None or source in PAGES or source.startswith("docs/"):
                continue
            yield source
            if (ROOT / source).is_dir():
                yield from (path.relative_to(ROOT).as_posix() for path in _modules(ROOT / source))


def _modules(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.py"))


def _source_page(source: str) -> str:
    path = ROOT / source
    hidden = "---\nsearch:\n  exclude: true\n---\n\n"
    if path.is_dir():
        rows = "\n".join(f"- [{module.name}]({module.name}.md)" for module in _modules(path))
        return f"{hidden}# {source}\n\n{rows}\n"
    # A fence longer than any inside it.
    language = LANGUAGES.get(path.suffix, "text")
    return f"{hidden}# {source}\n\n`````{language}\n{path.read_text()}\n`````\n"
