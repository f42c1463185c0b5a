"""p2pd, unpacked at installation, is the program that hivemind ships."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from deploy.unpack_p2pd import unpack


def p2pd():
    """The one that is installed."""
    return Path(find_spec("hivemind").origin).parent / "hivemind_cli/p2pd"


@pytest.mark.real_parts
def test_the_unpacked_p2pd_runs():
    """`make install` unpacked it, a second time there is nothing to do, and it runs."""
    assert unpack(p2pd()) == "p2pd is unpacked already"
    help_text = subprocess.run([p2pd(), "--help"], capture_output=True, text=True, timeout=30).stderr
    assert "-hostAddrs" in help_text


def test_any_other_file_is_left_as_it_is(tmp_path):
    """Another version of hivemind works, packed as it is."""
    other = tmp_path / "p2pd"
    shutil.copy(p2pd(), other)
    with other.open("ab") as file:
        file.write(b"!")
    before = other.read_bytes()
    assert "left as it is" in unpack(other)
    assert other.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["p2pd"]
