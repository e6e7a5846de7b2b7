"""Weights and figures of a fixed list of small runs keep their bits on the CPU: `configs.py` has the list."""

import pytest
import record
from configs import CONFIGS

EXPECTED = record.load_expected()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        EXPECTED is None,
        reason=f"no golden record for this machine: {record.machine()}. Record the code to compare with by "
        "`PYTHONPATH=ITS_CHECKOUT python tests/golden/record.py`",
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the inputs that the commands read."""
    place = tmp_path_factory.mktemp("golden")
    record.write_inputs(place / "inputs")
    return place


# the others are parts of these, or close to one of them
DAILY = ("plain", "tft_xl_all_techniques", "all_techniques", "distillation", "two_processes")
NAMES = [name if name in DAILY else pytest.param(name, marks=pytest.mark.deep) for name in CONFIGS]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_keeps_its_bits(name, place):
    assert name in EXPECTED, f"not recorded for this machine: python tests/golden/record.py {name}"
    found = record.results_of(name, place / name)
    assert any("weights/" in file for file in found)
    differences = record.differences(found, EXPECTED[name])
    assert not differences, "\n".join(differences)
