"""The documents: links lead somewhere, paragraphs are short, both READMEs show the same code."""

import re
from pathlib import Path

import pytest

from tests.documents import (
    DOCUMENTS,
    GUIDES,
    README,
    README_ZH,
    anchors_of,
    blocks_of,
    links_of,
    name_of,
    paragraphs_of,
)
from tests.servers import ROOT

MAX_PARAGRAPH_WORDS = 60

# The languages of blocks that are run, and of those that only show something.
RUN = {"sh", "python", "javascript"}
PROXIES = {"nginx", "apache", "haproxy", "caddy"}
SHOWN = {"json", "text", "ini", *PROXIES}

SHORT = [path for path in DOCUMENTS if path != README_ZH]

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def test_the_chinese_readme_has_the_code_blocks_of_the_english_one():
    def without_lines(document: Path) -> list[tuple[str, ...]]:
        return [block[:3] for block in blocks_of(document)]

    assert without_lines(README_ZH) == without_lines(README)


def test_each_readme_links_to_the_other_before_anything_else():
    assert links_of(README)[0] == README_ZH.name
    assert links_of(README_ZH)[0] == README.name


@pytest.mark.parametrize("readme", [README, README_ZH], ids=name_of)
def test_a_readme_links_to_every_guide(readme):
    assert {name_of(guide) for guide in GUIDES} <= set(links_of(readme))


@every_document
def test_every_relative_link_leads_to_a_file_and_a_heading(document):
    for link in links_of(document):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


@every_document
def test_every_code_block_is_closed_and_of_a_known_language(document):
    text = document.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks_of(document))
    if document.parent != ROOT or document in (README, README_ZH):
        assert {block.language for block in blocks_of(document)} <= RUN | SHOWN


@pytest.mark.parametrize("document", SHORT, ids=name_of)
def test_no_paragraph_is_long(document):
    for paragraph in paragraphs_of(document):
        assert len(paragraph.split()) <= MAX_PARAGRAPH_WORDS, paragraph


@pytest.mark.parametrize("proxy", sorted(PROXIES))
def test_there_is_one_configuration_of_a_proxy(proxy):
    found = [each.language for document in DOCUMENTS for each in blocks_of(document)]
    assert found.count(proxy) == 1
