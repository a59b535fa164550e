"""The pages that describe the code say what the code says."""

import re
from pathlib import Path

import pytest

from smidgen.cli.app import COMMANDS
from smidgen.cli.reference import REPEATED, pages, tables
from smidgen.config import PretrainRecipe, TrainConfig, methods

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def test_every_made_page_is_what_the_code_would_make(made: dict[str, str]):
    for name, text in made.items():
        path = ROOT / "docs" / name
        assert path.exists() and path.read_text(encoding="utf-8") == text, (
            f"docs/{name} is stale: run make docs"
        )


def test_every_command_and_every_option_is_explained(made: dict[str, str]):
    assert all(f"## smidgen {command.__name__}\n" in made["cli.md"] for command in COMMANDS)
    unexplained = [
        line for line in made["cli.md"].splitlines() if re.fullmatch(r"\* `[^`]+`:?( \*.*)?", line)
    ]
    assert not unexplained


def headings(page: str) -> str:
    """The headings of a page, one a line."""
    return "\n".join(line for line in page.splitlines() if line.startswith("#"))


@pytest.mark.parametrize("method", methods())
def test_every_key_of_a_recipe_is_explained(method: str, made: dict[str, str]):
    page = made["configuration.md"]
    recipe, train = methods()[method]
    part = page.partition("# Pretraining recipes\n")[2] if recipe is PretrainRecipe else page
    for name, section, _ in [*tables(recipe), *tables(train, "train")]:
        another = issubclass(section, TrainConfig) and section is not train
        if name.startswith("tasks.data") or another:  # as [data], or under another method
            continue
        heading = f"## `[{name}]`\n" if name else "## Top of the file"
        heading = (
            heading if not issubclass(section, REPEATED) else heading.replace("[", "[[").replace("]", "]]")
        )
        table = part.partition(heading)[2].partition("\n## ")[0]
        own = page.partition(f'## `[train]` with `method = "{method}"`\n')[2].partition("\n## ")[0]
        keys = [
            key for key in section.model_fields if f"[{f'{name}.{key}'.strip('.')}]" not in headings(page)
        ]
        keys = [key for key in keys if (name, key) != ("tasks", "data")]
        explained = table + own if section is train else table
        assert all(f"| `{key}` |" in explained for key in keys), name


def test_the_documents_do_not_lead_astray():
    linked = re.compile(r"\]\((?!https?://|#|mailto:)([^)#]+)")
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    lost = [
        f"{document.name}: {target}"
        for document in documents
        for target in linked.findall(document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert not lost
