import json
import sys

import pytest
import torch

from lrnn.bench import cpu
from lrnn.bench.__main__ import bench, main
from lrnn.bench.row import Row


def test_a_ratio_above_1_means_that_ours_is_better():
    assert Row("time", 2.0, 6.0, "ms").ratio == 3
    assert Row("rate", 6.0, 2.0, "tokens/s").ratio == 3
    assert Row("alone", 1.0, None, "GB/s").ratio is None


def test_an_unknown_part_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "--part=foo"])
    with pytest.raises(SystemExit, match=r"error: part: must be one of all, kernels, .*, got foo$"):
        main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it measures kernels")
def test_the_results_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "rows", lambda: iter([Row("time", 2.0, 6.0, "ms"), Row("alone", 2.0, None, "GB/s")]))
    bench(out=str(tmp_path))
    monkeypatch.setattr(cpu, "rows", lambda: iter([Row("alone", 1.0, None, "GB/s")]))
    bench("kernels", out=str(tmp_path))  # a part: the others' rows stay
    (record, alone) = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert record == {"name": "time", "ours": 2.0, "baseline": 6.0, "unit": "ms", "ratio": 3.0}
    assert alone["ours"] == 1.0 and alone["baseline"] is alone["ratio"] is None
    table = next(tmp_path.glob("*.md"))
    assert "| time | 2 | 6 | ms | 3 |" in table.read_text()
    table.write_text(table.read_text().replace(torch.__version__, "1.0"))
    bench("kernels", out=str(tmp_path))  # under another PyTorch's heading they do not
    assert [record["name"] for record in json.loads(next(tmp_path.glob("*.json")).read_text())] == ["alone"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it measures kernels")
def test_a_failure_loses_no_row_before_it(tmp_path, monkeypatch):
    def rows():
        yield Row("time", 2.0, 6.0, "ms")
        raise MemoryError

    monkeypatch.setattr(cpu, "rows", rows)
    with pytest.raises(MemoryError):
        bench(out=str(tmp_path))
    assert [record["name"] for record in json.loads(next(tmp_path.glob("*.json")).read_text())] == ["time"]
