"""The documentation: what README and pages name is there, links lead somewhere, the settings' page is as generated."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(
    r"(?<![\w/.<-])(?:\.\./)?(?:[\w.-]+/)*[\w-]+\.(?:py|sh|yaml|yml|csv|md|txt|png|toml|cff|lock)\b(?!\.)"
)
OTHERS = {"my_parts.py", "my_conf/preset/NAME.yaml",   # files of papers' code, of a run, or of one's own
    "dqn_atari.py", "config.yaml", "metrics.csv", "episodes.csv", "evaluations.csv", "compare.csv", "compare.png",
    "match.csv", "match.png", "policy.pth",
}  # fmt: skip


def names(path: Path) -> set[str]:
    """What a module defines: functions, classes, their methods, constants."""
    found: set[str] = set()

    def add(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                add(node.body, f"{node.name}.")
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                found.update(
                    prefix + part.id for part in ast.walk(target) if isinstance(part, ast.Name)
                ) if target else 0

    add(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def rows() -> list[tuple[str, str]]:
    """(file, name) of the README's table "Where is the ...?"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where is the")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return [
        (found[0], name)
        for _, file, what in cells[1:]
        if (found := re.findall(r"`(.+?)`", file)) and found[0].endswith(".py")
        for name in re.findall(r"`([\w.]+)`", what)
    ]


def test_the_table_of_names_is_there() -> None:
    assert len(rows()) > 25


@pytest.mark.parametrize(("file", "name"), rows())
def test_what_the_readme_points_to_is_there(file: str, name: str) -> None:
    assert name in names(ROOT / "atari_dqn" / file), f"{file} has no {name}"


def code(text: str) -> list[str]:
    """The inline code and code blocks of a page."""
    blocks = re.findall(r"^```.*?^```", text, re.S | re.M)
    return [*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "configuration.md"], ids=lambda p: p.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for piece in code(page.read_text(encoding="utf-8")):
        for found in NAMED.findall(piece):
            path = found.removeprefix("../")
            if found in OTHERS or piece.startswith(("google", "dqn/")) or "runs/" in found:
                continue
            if "/" not in path and not (ROOT / path).exists():
                assert [*ROOT.glob(f"*/**/{path}")], f"{page.name} names {found}, which is not there"
                continue
            inside = path.removeprefix("atari_dqn/")
            assert (ROOT / path).exists() or (ROOT / "atari_dqn" / inside).exists(), (
                f"{page.name} names {found}, which is not there"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
            assert anchor in slugs, f"{page.name} links to {target}: no such heading on GitHub"
            assert "--" not in anchor, f"{page.name} links to {target}: another name in MkDocs"


def test_every_page_is_in_the_navigation_and_in_the_readme() -> None:
    navigation, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("mkdocs.yml", "README.md"))
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in navigation
        assert f"(docs/{page.name})" in readme


def test_the_readme_is_short_and_says_how_to_run_the_tests() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert re.search(r"^make test\b", text, re.M)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_make_targets_that_pages_name_are_there() -> None:
    folders = {"": ROOT, "benchmarks": ROOT / "benchmarks"}
    targets = {
        name: {*re.findall(r"^([a-z0-9-]+):", (folder / "Makefile").read_text(encoding="utf-8"), re.M)}
        for name, folder in folders.items()
        if (folder / "Makefile").is_file()
    }
    targets[""] |= {"docs", "help-dev"}
    targets.setdefault("benchmarks", targets[""] | {"help"})
    for page in PAGES:
        for piece in code(page.read_text(encoding="utf-8")):
            for folder, target in re.findall(r"(?:^|[^\w/])make (?:-C (\w+) )?([a-z][a-z0-9-]*)", piece):
                assert target in targets[folder], f"{page.name}: make {folder} {target}"


def test_the_page_of_settings_is_as_generated() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate_configuration.py", "--check"],
        cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert not done.returncode, done.stderr
