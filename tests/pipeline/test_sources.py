import pytest

from smidgen.config import DataConfig
from smidgen.data.packaged_rows import NAMES, row_path
from smidgen.errors import ConfigError
from smidgen.files import sha256_file
from smidgen.pipeline import sources
from smidgen.tasks import find_task

TASK = find_task("judge")


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_come_with_smidgen_are_evaluated_by_name(name: str):
    rows = sources.test_rows(TASK, name)
    assert rows and rows == sources.test_rows(TASK, str(row_path(name)))
    assert (
        sources.source_hash(name) == sources.data_facts(name, rows, 1).sha256 == sha256_file(row_path(name))
    )


def test_they_are_not_trained_on():
    data = DataConfig(train=NAMES[0])
    with pytest.raises(ConfigError, match="smidgen:memorize-cases is for evaluation only; train on other"):
        sources.training_rows(TASK, data, *data.all_sources)
