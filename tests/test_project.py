"""Rules about the project's own files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support import ROOT

#: About 500 lines: a file that is cut in two only for its last lines reads no better.
LONGEST = 520
#: Words that would tie the project to a machine or a package registry.
FORBIDDEN = re.compile(
    "|".join(
        (
            "py" + r"pi\.org",
            "python" + "hosted",
            "/work" + "/main",
            "/home" + "/",
            r"index-url\s*=",
            "deb" + r"\.debian\.org",
        )
    )
)
TEXT = {".py", ".md", ".toml", ".asm", ".inc", ".cfg", ".yml", ".yaml", ""}


def project_files() -> list[Path]:
    """The files that git tracks or would add; all but hidden and built ones where there is no git."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listing.returncode == 0:
        return [path for name in listing.stdout.decode().splitlines() if (path := ROOT / name).is_file()]
    return [path for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*") if path.is_file()]


def sources() -> list[Path]:
    return [path for path in project_files() if path.suffix == ".py"]


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_every_module_says_what_it_is() -> None:
    package = [path for path in sources() if path.is_relative_to(ROOT / "src")]
    assert package
    assert [str(path) for path in package if not path.read_text().startswith('"""')] == []


def test_nothing_names_a_host_or_a_registry() -> None:
    texts = {path: path.read_text(errors="replace") for path in project_files() if path.suffix in TEXT}
    found = {str(path.relative_to(ROOT)): match[0] for path, text in texts.items() if (match := FORBIDDEN.search(text))}
    assert found == {}


def test_nothing_is_left_unfinished() -> None:
    marks = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    assert [str(path) for path in sources() if marks.search(path.read_text())] == []


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{n}.md" for n in ("index", "cli", "statistics"))]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_has_the_two_commands() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "make run\nmake test\n" in blocks


def test_the_version_is_the_same_everywhere() -> None:
    import tomllib

    from trapgate import __version__

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
