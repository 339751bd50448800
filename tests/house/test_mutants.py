"""The list of mutants fits the code; `make mutants` tries them."""

from pathlib import Path

import pytest

from tests.mutants.run import Mutant, load

ROOT = Path(__file__).parents[2]
MUTANTS = load()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_still_fits(mutant):
    source = (ROOT / mutant.file).read_text("utf-8")
    assert mutant.apply(source) != source
    for test in mutant.tests:
        file, *_, name = test.split("::")
        assert f"def {name.split('[')[0]}(" in (ROOT / file).read_text("utf-8"), test


def test_no_two_mutants_have_one_name():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize(("source", "count"), [("a = b", 0), ("x + x", 2)])
def test_a_stale_mutant_is_refused(source, count):
    with pytest.raises(ValueError, match=f"{count} times"):
        Mutant("stale", "a.py", "x", "y", ()).apply(source)
