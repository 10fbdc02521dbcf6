"""The commands for data sets."""

import made_data
import pytest

from fcbp import data
from fcbp.cli.data import DATA_COMMANDS


def test_ls_says_which_are_there(tmp_path, capsys):
    made_data.mnist(tmp_path)
    assert DATA_COMMANDS["ls"](root=tmp_path)() == 0
    lines = capsys.readouterr().out.splitlines()
    assert str(tmp_path) in lines[0]
    there = {line.split()[0]: line.split()[1] for line in lines[3:]}
    assert set(there) == set(data.names())
    assert there["digits"] == there["mnist"] == "yes"
    assert there["cifar100"] == "no"


def test_check_has_a_status_of_its_own(tmp_path, capsys):
    made_data.mnist(tmp_path)
    assert DATA_COMMANDS["check"](root=tmp_path)() == 0
    assert "mnist            good     12 + 5 examples" in capsys.readouterr().out
    assert DATA_COMMANDS["check"](("cifar10",), root=tmp_path)() == 1
    assert "fcbp data fetch cifar10" in capsys.readouterr().out
    made_data.write(tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", b"x")
    assert DATA_COMMANDS["check"](root=tmp_path)() == 1
    assert "t10k-labels-idx1-ubyte is no IDX file" in capsys.readouterr().out


def test_fetch_says_where_it_is(tmp_path, capsys):
    made_data.cifar(tmp_path)
    assert DATA_COMMANDS["fetch"]("cifar10", tmp_path)() == 0
    assert capsys.readouterr().out == f"cifar10 is in {tmp_path}\n"
    with pytest.raises(ValueError, match="it is part of fcbp"):
        DATA_COMMANDS["fetch"]("digits")()
