"""What several files of this folder start from."""

import numpy as np
import pytest

import fairloss.report as fr
from tests.report.command import predictions, write
from tests.report.samples import data


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "predictions.csv", predictions())


@pytest.fixture(scope="module")
def report():
    y, s, g = data(600, effect=0.15)
    sex = np.where(np.arange(600) % 2, "F", "M").astype(object)
    sex[:10] = None
    age = np.array(["18-49", "50-69", "70+"])[g].astype(object)
    age[10:14] = "<unstated>"
    return fr.FairnessReport.from_predictions(
        y, s, {"sex": sex, "age": age}, num_replicates=300, title="A & B <report>"
    )
