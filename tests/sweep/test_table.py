"""The table against numbers worked out by hand, from runs that were written by hand."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from lrnn.runtime.errors import ConfigError
from lrnn.sweep.grid import Cell, claim_folder
from lrnn.sweep.protocol import differences
from lrnn.sweep.published import PUBLISHED
from lrnn.sweep.select import Finished, median_deviation, select
from lrnn.sweep.table import table

CELL = Cell("DeltaNet [-1, 1]", "modular_arithmetic", (), (1e-2, 1e-3), (0, 1, 2))
SCORES = {  # (rate, seed): (validation, test)
    (1e-2, 0): (0.50, 0.90), (1e-2, 1): (0.52, 0.95), (1e-2, 2): (0.99, 0.99),
    (1e-3, 0): (0.60, 0.10), (1e-3, 1): (0.61, 0.40), (1e-3, 2): (0.10, 0.20),
}  # fmt: skip


def write_run(run, task, *, steps=1, score=0.5, at=None, **options):
    """Write a finished run on a task with these options."""
    run.folder.mkdir(parents=True)
    config = {"trainer": {"max_steps": steps}, "data": {"class_path": task, "init_args": options}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = {"validation_scaled_accuracy": score, "scaled_accuracy": score, "scaled_accuracy_at": at or {}}
    (run.folder / "length_generalization.json").write_text(json.dumps(result))


def finished(scores):
    for run in CELL.runs("nowhere"):
        if pair := scores.get((run.learning_rate, run.seed)):
            validation, test = pair
            yield Finished(run, {"validation_scaled_accuracy": validation, "scaled_accuracy": test})


def chosen_rate(scores):
    [rate] = {one.run.learning_rate for one in select(list(finished(scores)))}
    return rate


def test_the_rate_is_selected_by_the_median_of_validation_and_never_by_the_test_set():
    assert chosen_rate(SCORES) == 1e-3  # though both the best and the median of 1e-2 are better on the test set
    swapped = {key: (test, validation) for key, (validation, test) in SCORES.items()}
    assert chosen_rate(swapped) == 1e-2
    blind = {key: (validation, -1.0) for key, (validation, _) in SCORES.items()}
    assert chosen_rate(blind) == 1e-3


def test_equal_medians_and_missing_seeds():
    assert chosen_rate(SCORES | {(1e-2, 0): (0.60, 0), (1e-2, 1): (0.60, 0)}) == 1e-2  # by the mean
    assert chosen_rate({key: pair for key, pair in SCORES.items() if key != (1e-3, 2)}) == 1e-2
    assert select([]) == []


def test_a_test_set_of_one_length_is_on_the_curve():
    run, result = CELL.runs("nowhere")[0], {"sequence_accuracy": 0.25, "sequence_accuracy_at": {"64": 1.0}}
    for lengths, more in (([4096, 4096], {4096: 0.25}), ([40, 4096], {})):
        assert Finished(run, result | {"test_lengths": lengths}, "sequence_accuracy").curve == {64: 1.0, **more}


def test_median_deviation():
    assert median_deviation([0.1, 0.4, 0.2]) == pytest.approx(0.1)
    assert median_deviation([1.0]) == 0
    assert median_deviation([0.0, 1.0, 4.0, 9.0]) == pytest.approx(2.0)  # median 2.5; 2.5, 1.5, 1.5, 6.5


def test_table_of_a_sweep_by_hand(tmp_path, capsys):
    others = [
        Cell("Mamba [0, 1]", "modular_arithmetic", (), (1e-2,), (0, 1)),
        Cell("Ours", "parity", (), (1e-2,), (0,)),
    ]
    claim_folder(tmp_path / "sweep", [CELL, *others])
    task = {"class_path": "data.ModularArithmetic", "init_args": {"modulus": 5, "test_samples": 100}}
    for run in CELL.runs(tmp_path / "sweep"):
        run.folder.mkdir(parents=True)
        (run.folder / "config.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 12_000}, "data": task}))
        validation, test = SCORES[run.learning_rate, run.seed]
        result = {"validation_scaled_accuracy": validation, "scaled_accuracy": test}
        result["scaled_accuracy_at"] = {"40": test, "1024": test + 0.1}
        result |= {"sequence_accuracy": test / 2, "sequence_accuracy_at": {"40": test / 2, "1024": test / 4}}
        (run.folder / "length_generalization.json").write_text(json.dumps(result))
        run.add_seconds(10 * run.seed + 9)
        run.add_seconds(1)

    out = tmp_path / "out"
    table(str(tmp_path / "sweep"), str(out))
    text = (out / "table.md").read_text()
    ours = "| DeltaNet [-1, 1] | 0.971/0.826 | 0.400/0.200 | -0.571 | 0.400 0.200 0.100"
    assert f"{ours} | 0.300 | 20 | 0.001 | 12,000 |" in text and "*" not in text
    assert "\n- DeltaNet [-1, 1]: 12,000 steps, not 100,000; 2 learning rates, not 4\n" in text
    assert "1 of this sweep's 2 cells of the paper have 3 seeds or more. Others, with their number of seeds: " in text
    assert "Mamba [0, 1] on modular_arithmetic (0)." in text
    assert "| Mamba [0, 1] | 0.095/0.066 | not run | - | (0 of 2) | - | - | - | - |" in text
    assert "## parity\n\nNo run is finished.\n" in text and "| Ours | - | not run |" in text
    assert (
        "tested on 40 to 256 (100 sequences). A score of 0 is chance, an accuracy of 0.200; the best constant" in text
    )
    assert "lr0.001_seed1" in text and text.count("python -m lrnn.fit") == 1  # the command of the best seed
    assert "DeltaNet [-1, 1]" in capsys.readouterr().out
    assert (out / "modular_arithmetic.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "parity.png").exists()

    table(str(tmp_path / "sweep"), str(tmp_path / "sequences"), measure="sequence_accuracy")
    text = (tmp_path / "sequences/table.md").read_text()
    assert "| DeltaNet [-1, 1] | 0.200/0.100 | 0.200 0.100 0.050 | 0.050 | 20 | 0.001 | 12,000 |" in text
    assert "paper" not in text and "tested on 40 to 256 (100 sequences).\n" in text

    with (out / "table.csv").open() as file:
        cell, not_run, _ = csv.DictReader(file)
    assert (cell["best"], float(cell["difference"])) == ("0.4", pytest.approx(0.4 - 0.971))
    assert (cell["at_1024"], cell["deviation"], cell["paper_deviation"]) == ("0.30000000000000004", "0.1", "0.146")
    assert (not_run["model"], not_run["best"], not_run["paper_best"]) == ("Mamba [0, 1]", "", "0.095")
    with (out / "runs.csv").open() as file:
        runs = {(float(run["rate"]), int(run["seed"])): run for run in csv.DictReader(file)}
    for key, run in runs.items():
        assert (float(run["validation"]), float(run["test"])) == SCORES[key]
        assert run["selected"] == str(key[0] == 1e-3)
    assert len(runs) == 6

    for run, score in zip(CELL.runs(tmp_path / "sweep"), (0.9, 0.7, 0.8) * 2, strict=True):
        result = run.result() | {"best_checkpoint": {"step": 1000, "scaled_accuracy": score}}
        (run.folder / "length_generalization.json").write_text(json.dumps(result))
    table(str(tmp_path / "sweep"), str(out))
    text = (out / "table.md").read_text()
    assert f"{ours} | 0.300 | 20 | 0.001 | 12,000 | 0.900/0.800 |" in text
    assert "| not run | - | (0 of 2) | - | - | - | - | - |" in text

    run.folder.joinpath("length_generalization.json").unlink()  # of the last seed of the rate that was chosen
    table(str(tmp_path / "sweep"), str(out), lengths=[40])
    header = "| model | paper | ours | difference | seeds | at 40 | s | rate | steps | kept |"
    text = (out / "table.md").read_text()
    assert header in text and "| 0.01* | 12,000 |" in text and "*: another rate has fewer finished seeds." in text
    with pytest.raises(ConfigError, match=r"lengths: no run was scored at \[41\]; .* scored at \[40, 1024\]"):
        table(str(tmp_path / "sweep"), str(out), lengths=[40, 41])


def test_medians_are_compared_where_the_best_of_the_paper_is_unknown(tmp_path):
    task = "modular_arithmetic_brackets_times"
    cells = [Cell(name, task, (), (1e-2,), (0, 1, 2)) for name in ("DeltaNet [-1, 1]", "Mamba [-1, 1]")]
    claim_folder(tmp_path, cells)
    for cell, scores in zip(cells, ((0.1, 0.9, 0.2), (0.1, 0.2)), strict=True):
        for run, score in zip(cell.runs(tmp_path), scores, strict=False):
            write_run(run, "data.ModularArithmeticBrackets", score=score, test_samples=10)
    table(str(tmp_path))
    text = (tmp_path / "table.md").read_text()
    assert "| DeltaNet [-1, 1] | -/0.129 | 0.900/0.200 | +0.071 |" in text
    assert f"with their number of seeds: Mamba [-1, 1] on {task} (2)." in text


def test_models_with_other_lengths_have_a_caption_of_their_own(tmp_path):
    cells = [Cell(name, "parity", (), (1e-2,), (0,)) for name in "ABC"]
    claim_folder(tmp_path, cells)
    for cell, lengths, batch in zip(cells, ([40, 256], [500, 500], [40, 256]), (1, 1, 2), strict=True):
        [run] = cell.runs(tmp_path)
        write_run(run, "data.Parity", test_lengths=lengths, batch_size=batch)
    table(str(tmp_path))
    text = (tmp_path / "table.md").read_text()
    for names, lengths in (("A, C", "40 to 256"), ("B", "500")):
        assert f"\n\n{names}: Trained on lengths 3 to 40, tested on {lengths} (8,192 sequences)." in text


RATES = (1e-2, 1e-3, 5e-4, 1e-4)


def test_runs_without_a_result_are_named_below_the_table(tmp_path):
    cells = [Cell(name, "parity", (), (1e-2, 1e30), (0, 1)) for name in ("Mamba [0, 1]", "Mamba [-1, 1]", "sLSTM")]
    claim_folder(tmp_path, cells)
    for cell in cells[:2]:
        first, _, *diverged = cell.runs(tmp_path)
        write_run(first, "data.Parity", steps=100_000, test_samples=10)
        for run in diverged:
            run.beside(".log").touch()
    table(str(tmp_path))
    text = (tmp_path / "table.md").read_text()
    both = "Mamba [0, 1], Mamba [-1, 1]"
    assert f"\n- {both}: rates 1e+30, not among the paper's; 2 learning rates, not 4\n" in text
    missing = "rate 0.01, seed 1, not started; rate 1e+30, seeds 0, 1"
    assert f"\nRuns without a result:\n\n- {both}: {missing}\n- sLSTM: none was started\n" in text
    with (tmp_path / "runs.csv").open() as file:
        runs = [(float(run["rate"]), run["seed"], run["test"]) for run in csv.DictReader(file)]
    assert runs == [(1e-2, "0", "0.5"), (1e30, "0", ""), (1e30, "1", "")] * 2


def test_differences_from_the_protocol_of_the_paper():
    data = {"init_args": {"batch_size": 256, "train_lengths": [3, 40], "curriculum": [{"lengths": [3, 9]}]}}
    model = {"init_args": {"layers": 3, "width": 64, "betas": [0.9, 0.95], "weight_decay": 0.1, "adam_eps": 1e-15}}
    trainer = {"max_steps": 100_000, "accumulate_grad_batches": 4}  # steps of 1,024 sequences
    run = {"trainer": trainer, "data": data, "model": model}
    optimizer = ["betas [0.9, 0.95], not [0.9, 0.999]", "adam_eps 1e-15, not 1e-08"]
    assert differences("sLSTM", "modular_arithmetic", run, RATES) == [*optimizer, "a length curriculum"]
    assert differences("mLSTM", "parity", run, (1e-2, 2e-3)) == [
        "batches of 1,024, not 512",
        "layers 3, not 2",
        "width 64, not 128",
        *optimizer,
        "a length curriculum",
        "rates 0.002, not among the paper's",
        "2 learning rates, not 4",
    ]


@pytest.mark.parametrize(
    ("section", "option", "difference"),
    [
        ("model", {"conv_size": 0}, "conv_size 0, not 4"),
        ("model", {"eigenvalue_range": [-1, 1]}, "eigenvalue_range [-1, 1], not [0, 1]"),
        ("model", {"state_consistency": 0.1}, "state_consistency 0.1, not 0"),  # a default that no file names
        ("data", {"multiplication": True}, "multiplication true, not false"),
        ("data", {"test_lengths": [500, 500]}, "test_lengths [500, 500], not [40, 256]"),
        ("data", {"test_samples": 7, "num_workers": 2}, None),
        ("trainer", {"gradient_clip_val": None}, "gradient_clip_val null, not 1"),
        ("trainer", {"devices": 2, "precision": "32-true", "log_every_n_steps": 3}, None),
        ("schedule", {"warmup": 0.2, "min_lr": 1e-6}, "warmup 0.2, not 0.1"),
    ],
)
def test_every_option_that_matters_is_compared(section, option, difference):
    run = {section: {"init_args": option} if section in ("model", "data") else option}
    found = differences("DeltaNet [0, 1]", "modular_arithmetic_brackets", run, RATES)
    assert found == ([difference] if difference else [])


def test_another_class_is_a_difference():
    run = {"model": {"class_path": "lrnn.models.Mamba", "init_args": {"state_size": 3, "width": 64}}}
    found = differences("sLSTM", "parity", run, RATES)
    assert found == ["lrnn.models.Mamba, not lrnn.models.SLSTM", "width 64, not 128"]
    missing = ["not compared, as conf/sweeps/table3.yaml has no such cell"]
    assert differences("sLSTM", "even_pairs", run, RATES) == missing


def test_the_files_are_written_before_anything_is_printed(tmp_path, monkeypatch):
    def print_to_nobody(*arguments, **options):
        raise BrokenPipeError

    cell = Cell("Model", "parity", (), (0.1,), (0,))
    claim_folder(tmp_path, [cell])
    write_run(cell.runs(tmp_path)[0], "data.Parity")
    monkeypatch.setattr("rich.console.Console.print", print_to_nobody)
    with pytest.raises(BrokenPipeError):
        table(str(tmp_path))
    assert {path.name for path in tmp_path.glob("*.*")} >= {"table.md", "table.csv", "runs.csv", "parity.png"}


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not the folder of a sweep"):
        table(str(tmp_path))


def test_the_table_of_some_cells(tmp_path):
    cells = [Cell(name, "parity", (), (1e-2,), (0,)) for name in ("Mamba [0, 1]", "Mamba [-1, 1]")]
    claim_folder(tmp_path, cells)
    write_run(cells[1].runs(tmp_path)[0], "data.Parity", test_samples=10)
    table(str(tmp_path), only="Mamba [-1, 1]*")
    text = (tmp_path / "table.md").read_text()
    assert "| Mamba [-1, 1] |" in text and "Mamba [0, 1]" not in text
    with pytest.raises(ConfigError, match=r"only: no cell matches sLSTM; cells: Mamba \[0, 1\] on parity, Mamba"):
        table(str(tmp_path), only="sLSTM")


def test_published_cells_are_those_of_the_sweep():
    names = ("table3", "arithmetic_curriculum")
    files = [Path(f"conf/sweeps/{name}.yaml").read_text() for name in names]
    blocks = [block for text in files for block in yaml.safe_load(text)["cells"]]
    cells = {(task, model) for block in blocks for task in block["tasks"] for model in block["models"]}
    published = {(task, model) for task, rows in PUBLISHED.items() for model in rows}
    assert published <= cells and len(published) == 28 + 2


def test_a_task_of_the_users_own_has_a_table(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(
        "import lightning as L\n"
        "class Mine(L.LightningDataModule):\n"
        "    chance, train_lengths, test_lengths, test_samples = 0.25, (1, 4), (5, 6), 7\n"
        "    def __init__(self, colour: str):\n"
        "        super().__init__()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cell = Cell("Model", "mine w/ [/red]", (), (0.1,), (0,))
    claim_folder(tmp_path / "sweep", [cell])
    [run] = cell.runs(tmp_path / "sweep")
    write_run(run, "my_tasks.Mine", at={"6": 0.5, "8": 0.25}, colour="red")
    table(str(tmp_path / "sweep"))
    text = (tmp_path / "sweep/table.md").read_text()
    assert "](mine_w_red.png)" in text and (tmp_path / "sweep/mine_w_red.png").is_file()
    assert "tested on 5 to 6 (7 sequences). A score of 0 is chance, an accuracy of 0.250.\n" in text
    assert "| Model | - | 0.500/0.500 | - | 0.500 | 0.250 | - | 0.1 | 1 |" in text  # at 8; nothing noted its seconds
