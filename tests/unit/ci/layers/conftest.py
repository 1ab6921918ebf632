from pathlib import Path

import pytest

from tests.oci_layouts import Layouts


@pytest.fixture
def layouts(tmp_path: Path) -> Layouts:
    return Layouts(tmp_path)
