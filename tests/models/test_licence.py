from pathlib import Path

import pytest

from smidgen.models.licence import (
    FAIR,
    NOT_CHOSEN,
    LicenceNotice,
    copy_licence,
    licence_of,
    mark_own,
    warn_of_licence,
)

QWEN, MOBILE = {"model_type": "qwen3"}, {"model_type": "llama4_text"}


def card(*lines: str) -> str:
    return "\n".join(["---", *lines, "---", "", "# A model", "license: not-this-one"])


@pytest.mark.parametrize(
    ("file", "text", "name", "noncommercial"),
    [
        ("README.md", card("license: apache-2.0", "language: en"), "apache-2.0", False),
        ("README.md", card("license: 'cc-by-nc-4.0'  # for now"), "cc-by-nc-4.0", True),
        ("README.md", card("license: other", "license_name: fair-noncommercial-research"), FAIR, True),
        ("README.md", card("license: other", "license_name: fancy-1"), "fancy-1", False),
        ("README.md", card("license: fair-noncommercial-research-license"), FAIR, True),
        ("LICENSE", "\n  FAIR Noncommercial Research License v1\nText", FAIR, True),
        ("LICENSE.md", "# MIT License\n", "MIT License", False),
    ],
)
def test_the_folder_tells_the_licence(tmp_path: Path, file: str, text: str, name: str, noncommercial: bool):
    (tmp_path / file).write_text(text)
    licence = licence_of(tmp_path, MOBILE)
    assert licence is not None
    assert (licence.name, licence.source, licence.is_noncommercial) == (name, file, noncommercial)


def test_the_card_goes_before_the_licence_file(tmp_path: Path):
    (tmp_path / "LICENSE").write_text("MIT License")
    (tmp_path / "README.md").write_text(card("license: cc-by-nc-4.0"))
    licence = licence_of(tmp_path, QWEN)
    assert licence is not None and licence.name == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    "text", ["", "# A model\nlicense: mit", card("language: en"), card("license: other")]
)
def test_a_card_that_says_nothing_leaves_it_to_the_architecture(tmp_path: Path, text: str):
    (tmp_path / "README.md").write_text(text)
    assert licence_of(tmp_path, QWEN) is None
    licence = licence_of(tmp_path, MOBILE)
    assert licence is not None and licence.name == FAIR and "MobileLLM-R1" in licence.source


def test_only_what_may_not_be_sold_is_warned_of(tmp_path: Path):
    with pytest.warns(LicenceNotice, match="models made from it and its answers are not for commercial use"):
        warn_of_licence(tmp_path, MOBILE)
    (tmp_path / "README.md").write_text(card("license: cc-by-nc-4.0"))
    with pytest.warns(LicenceNotice, match=r"according to README.md\): the model and models made from it"):
        warn_of_licence(tmp_path, MOBILE)
    (tmp_path / "README.md").write_text(card("license: mit"))
    warn_of_licence(tmp_path, MOBILE)  # a warning would be an error here


def test_a_model_from_random_weights_is_its_owners_and_so_is_what_is_made_of_it(tmp_path: Path):
    (tmp_path / "model").mkdir(), (tmp_path / "made").mkdir()
    mark_own(tmp_path / "model")
    copy_licence(tmp_path / "model", tmp_path / "made")
    for name in ("model", "made"):
        licence = licence_of(tmp_path / name, MOBILE)
        assert licence is not None and licence.name == NOT_CHOSEN and not licence.is_noncommercial
        warn_of_licence(tmp_path / name, MOBILE)  # a warning would be an error here
