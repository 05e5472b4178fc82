"""The tables of experiments/conditioning are made of the reports that are there, and measure nothing twice."""

import json
import sys

import pytest

from tests.scripts import EXPERIMENTS, load_script

METRICS = ("frechet", "precision", "recall")


@pytest.mark.parametrize(
    ("name", "flags", "reports", "row"),
    [
        (
            "guidance",
            ["--scales", "1", "--limited"],
            {
                "row-0/evaluation.json": {
                    "checkpoints": [
                        {
                            "class_accuracy": 0.5,
                            "class_accuracy_std_error": 0.01,
                            "metrics": {name: {"value": 2.0, "std_error": 0.1} for name in METRICS},
                        }
                    ]
                }
            },
            "| 1 | 50.0 ± 1.0 % | 2.0 ± 0.1 | 2.000 ± 0.100 | 2.000 ± 0.100 |",
        ),
        (
            "coverage",
            ["--noise", "0.1"],
            {
                f"mask-0.1-{method}/restoration.json": {
                    **{"coverage": 0.9, "coverage_std_error": 0.01, "psnr_mean": 20.0, "psnr_mean_std_error": 0.5},
                    **{"num_evals": 7.0, "num_products": 3.0},
                }
                for method in ("mmps", "pigdm", "daps", "tds", "dps")
            },
            "| the upper half | 0.1 | daps | 0.900 ± 0.010 | - | 20.0 ± 0.5 | - | 7 + 3 |",
        ),
    ],
)
def test_a_table_is_made_of_the_reports_that_are_there(tmp_path, monkeypatch, capsys, name, flags, reports, row):
    for place, report in reports.items():
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text(json.dumps(report))
    script = load_script(EXPERIMENTS / "conditioning" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [name, "--workdir=nowhere", f"--out={tmp_path}", *flags])
    script.main()
    assert row in capsys.readouterr().out.splitlines()
