"""Our rows beside those of the paper's Table 4."""

import json
from statistics import mean

import pytest

from lrnn.evaluate.table4 import table4
from lrnn.evaluate.tasks import TASKS
from lrnn.runtime.errors import ConfigError
from lrnn.sweep.published_table4 import AVERAGED, COLUMNS, PUBLISHED_TABLE_4


def test_the_columns_are_those_of_the_default_tasks():
    assert list(dict.fromkeys(source[0] for source in COLUMNS.values() if source)) == list(TASKS)
    for rows in PUBLISHED_TABLE_4.values():
        for values in rows.values():
            row = dict(zip(COLUMNS, values, strict=True))
            assert row["Avg"] == pytest.approx(mean(row[name] for name in AVERAGED), abs=0.1)


def test_what_was_not_scored_is_empty(tmp_path, capsys):
    record = {"name": "run", "step": 7, "model": "lrnn.models.DeltaNet", "parameters": 341_000_000, "limit": None}
    results = {"wikitext": {"word_perplexity": 30.123}, "arc_challenge": {"acc": 0.2, "acc_norm": 0.25}}
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps({**record, "eigenvalue_range": [-1.0, 1.0], "results": results}))
    table4([str(file)], out=str(tmp_path))
    *_, ours = (tmp_path / "table4.md").read_text().splitlines()
    assert ours == "| DeltaNet [-1, 1] (341M, run, step 7) | 30.12 |  |  |  |  |  |  | 25.0 |  |  |  |  |"
    assert "DeltaNet" in capsys.readouterr().out
    table4([str(tmp_path / "*/tasks.json")])  # no runs: the paper's rows alone
    with pytest.raises(ConfigError, match=r"results: there is no none\.json; python -m lrnn.evaluate tasks writes it"):
        table4(["none.json"])


def test_every_file_has_a_row_and_a_few_shot_one_says_so(tmp_path):
    record = {"name": "seed0", "step": 7, "model": "lrnn.models.DeltaNet", "parameters": 341_000_000}
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for file, accuracy, shots in zip(files, (0.6, 0.7, 0.8), (None, 0, 5), strict=True):
        file.write_text(json.dumps({**record, "num_fewshot": shots, "results": {"piqa": {"acc": accuracy}}}))
    table4(list(map(str, files)), out=str(tmp_path))
    rows = [line.split("|") for line in (tmp_path / "table4.md").read_text().splitlines()[-3:]]
    name = "DeltaNet (341M, seed0, step 7"
    assert [row[1].strip() for row in rows] == [f"{name})", f"{name}) of {files[1]}", f"{name}, 5-shot)"]
    assert [row[5].strip() for row in rows] == ["60.0", "70.0", "80.0"]
