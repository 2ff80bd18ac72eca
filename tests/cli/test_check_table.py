"""Table of counts of `loupe check` with many classes."""

from io import StringIO

import pytest
from rich.console import Console

from loupe.cli.check_table import MOST_CLASSES, print_check
from loupe.data.audit.check_report import CheckReport


@pytest.mark.parametrize("classes", [2, MOST_CLASSES, MOST_CLASSES + 1, 20_000])
def test_counts_are_of_all_classes_and_rows_of_some(classes):
    counts = {"no split": {f"class{k:06d}": 3 for k in range(classes)}}
    report = CheckReport("many", 3 * classes, counts, None, None, {}, {}, (), (), (), (), ())
    print_check(report, Console(file=(text := StringIO()), width=200))
    lines = text.getvalue().splitlines()
    assert sum("class0" in line for line in lines) == min(classes, MOST_CLASSES)
    assert sum(" more " in line for line in lines) == (classes > MOST_CLASSES)
    [total] = [line for line in lines if " all " in line and "json" not in line]
    assert f"{3 * classes:,}" in total
