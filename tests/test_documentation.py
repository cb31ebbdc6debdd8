"""The pages of docs/: each is in the table of contents, and links inside the project lead somewhere."""

import re

import pytest

from commandline import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub and MyST give them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_page_is_in_the_table_of_contents_once():
    trees = re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(listed) == sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_inside_the_project_lead_to_files_and_headings(path):
    page = path.read_text("utf-8")
    for link in LINK.findall(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{path.name}: {link}"
        assert not anchor or anchor in anchors(target.read_text("utf-8")), f"{path.name}: {link}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_included_parts_of_other_pages_exist(path):
    for block in re.findall(r"```{include} (.*?)```", path.read_text("utf-8"), re.DOTALL):
        included = (path.parent / block.splitlines()[0]).read_text("utf-8")
        for limit in re.findall(r':(?:start-after|end-before): "(.*)"', block):
            assert included.count(limit) == 1, f"{path.name}: {limit}"
