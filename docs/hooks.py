"""MkDocs hook: pages link to files of the repository as they would on GitHub (`../benchmarks/results/laptop.csv`).

Pictures and tables are copied into the site. Other files become links into the repository where mkdocs.yml names it
(repo_url), and plain text where it does not. A link to a file that is not there fails the build.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
COPIED = {".png", ".gif", ".webp", ".csv"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(\.\./([^)#\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures and tables that pages show to the site."""
    wanted = set()
    for file in files.documentation_pages():
        text = Path(file.abs_src_path).read_text(encoding="utf-8")
        wanted |= {match[3] for match in LINK.finditer(text) if Path(match[3]).suffix in COPIED}
    for path in sorted(wanted):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links out of docs/ into what the site has."""

    def link(match: re.Match) -> str:
        picture, text, path = match.groups()
        if not (ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri} links to {path}, which does not exist")
        if Path(path).suffix in COPIED:
            return f"{picture}[{text}]({path})"
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
        return text

    return LINK.sub(link, markdown)
