"""Every public function, called with every kind of wrong value in the place of each of its arguments."""

from __future__ import annotations

import functools
import itertools
import os
import warnings
from collections import Counter
from pathlib import Path

import pytest
from wrong_values import CALLS, ELSEWHERE, FEW, HEAVY, WITHOUT_ARGUMENTS, WRONG, call, outcome, public

import fcbp
import fcbp.cli
from fcbp.checks import arguments, check_elements

PUBLIC = public()
GOOD = ("accepted", "names it", "no such file")


def test_every_public_function_has_a_valid_call():
    unknown = set(PUBLIC) - set(CALLS) - WITHOUT_ARGUMENTS - ELSEWHERE
    assert {name for name in unknown if not name.startswith("plots.")} == set()
    assert set(CALLS) <= set(PUBLIC)


@pytest.mark.slow
def test_wrong_values_are_accepted_or_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts: Counter[str] = Counter()
    bad: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, valid in CALLS.items():
            if name in ("sweep", "resume", "data.check"):
                continue
            call(PUBLIC[name], valid)
            for argument, kind in itertools.product(valid, FEW if name in HEAVY else WRONG):
                given = {**valid, argument: WRONG[kind]}
                found = outcome(functools.partial(call, PUBLIC[name], given), argument, WRONG[kind])
                counts[found if found in GOOD else "else"] += 1
                if found not in GOOD:
                    bad.append(f"{name}: {argument} = {kind}: {found[:200]}")
    print(dict(counts))
    assert not bad, "\n".join(bad)


def test_the_values_of_a_command_line_are_named(capsys, tmp_path):
    file = Path(tmp_path) / "a.yaml"
    digits = "9" * 400
    texts = {"settings": "settings: 3\n", "step_size": f"step_size: {digits}\n", "hidden": "hidden:\n"}
    for named, text in texts.items():
        file.write_text(text)
        assert fcbp.cli.main(["run", os.fspath(file), "--steps", "4", "--seeds", "1"]) == 2, text
        assert named in capsys.readouterr().err


def test_an_error_that_no_argument_explains_stays():
    @arguments
    def apply(function: object, number: float) -> object:
        return function(number)  # type: ignore[operator]

    def fails(number):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        apply(fails, 1.0)
    with pytest.raises(ValueError, match="number is 'a'; expected a number"):
        apply(fails, "a")


def test_a_size_that_no_machine_holds_is_refused_before_memory_is_asked_for():
    with pytest.raises(ValueError, match=r"hidden_sizes is .*; expected at most"):
        fcbp.nets.mlp(20, (10**12,), 1)
    with pytest.raises(ValueError, match=r"input_bits is .*; expected at most"):
        fcbp.streams.bit_flipping(input_bits=10**12)
    check_elements("width", 3, 3, 4)
