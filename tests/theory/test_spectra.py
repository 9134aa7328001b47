import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import Spectrum
from lrnn.fit import fit
from lrnn.models import (
    MLSTM,
    SLSTM,
    AttentionMixer,
    DeltaNet,
    DeltaNetMixer,
    DeltaProduct,
    Diagonal,
    FullMatrix,
    Hybrid,
    Mamba,
    TokenMatrices,
    Transformer,
)
from lrnn.models.transitions import HouseholderTransitions
from lrnn.runtime.errors import ConfigError
from lrnn.theory.construct import parity_delta_net, rotation_delta_product
from lrnn.theory.spectra import LONGEST, eigenvalues, summarize, transitions
from lrnn.theory.spectrum import spectrum

ROOT = Path(__file__).parents[2]
SMALL = {"vocab_size": 7, "width": 16, "layers": 2}
MODELS = {
    "DeltaNet": lambda **o: DeltaNet(**SMALL, heads=2, **o),
    "DeltaNet without convolution": lambda **o: DeltaNet(**SMALL, heads=2, conv_size=0, **o),
    "DeltaProduct": lambda **o: DeltaProduct(**SMALL, heads=2, **o),
    "DeltaProduct of 3 with a gate": lambda **o: DeltaProduct(**SMALL, heads=2, reflections=3, forget_gate=True, **o),
    "DeltaProduct of more than K": lambda **o: DeltaProduct(**SMALL, heads=8, reflections=3, **o),
    "Mamba": lambda **o: Mamba(**SMALL, state_size=3, **o),
    "Diagonal": lambda **o: Diagonal(**SMALL, **o),
    "MLSTM": lambda **o: MLSTM(**SMALL, heads=2, **o),
}
UNBOUNDED = {
    "FullMatrix": lambda: FullMatrix(vocab_size=7, width=6, layers=2),
    "TokenMatrices": lambda: TokenMatrices(vocab_size=7, matrix_size=4),
}
RANGED = [(name, eigenvalue_range) for name in MODELS for eigenvalue_range in ((0, 1), (-1, 1))]


def model_and_tokens(name, **options):
    torch.manual_seed(1)
    model = (MODELS | UNBOUNDED)[name](**options)
    with torch.no_grad():
        for parameter in model.parameters():  # far from the start of training, where all eigenvalues are alike
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model, torch.randint(7, (2, 12))


def nearest(found, expected):
    """Largest distance of an expected eigenvalue from the nearest found one, as (..., n) and (..., m)."""
    return (found[..., None, :].to(torch.complex128) - expected[..., None]).abs().amin(-1).max()


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("name, eigenvalue_range", [*RANGED, *((name, None) for name in UNBOUNDED)])
def test_eigenvalues_are_those_of_the_matrices(name, eigenvalue_range, window):
    options = {} if eigenvalue_range is None else {"eigenvalue_range": eigenvalue_range}
    model, tokens = model_and_tokens(name, **options)
    for one in transitions(model, tokens).values():
        found = one.over(window).eigenvalues()
        A = one.matrices().double()
        A = A[:, : 12 // window * window].unflatten(1, (12 // window, window))
        M = A[:, :, 0]
        for j in range(1, window):
            M = A[:, :, j] @ M
        expected = torch.linalg.eigvals(M)
        tolerance = 1e-5 * max(1.0, float(expected.abs().max()))  # a full matrix has no bound
        assert nearest(expected, found.to(torch.complex128)) < tolerance
        if found.shape[-1] < expected.shape[-1]:  # the others are the gate's
            gate = 1.0 if one.gate is None else one.over(window).gate[..., None].double()
            found = torch.cat([found, torch.ones_like(found[..., :1]) * gate], -1)
        assert nearest(found, expected) < tolerance


@pytest.mark.parametrize("name, eigenvalue_range", [*RANGED, *((name, None) for name in UNBOUNDED)])
def test_transitions_are_what_moves_the_state(name, eigenvalue_range):
    options = {} if eigenvalue_range is None else {"eigenvalue_range": eigenvalue_range}
    model, _ = model_and_tokens(name, **options)
    model = model.double()
    mixer = model.backbone.blocks[0].mixer
    x = torch.randn(2, 5, model.backbone.head.in_features, dtype=torch.float64)
    with torch.no_grad():
        _, state = mixer(x[:, :2])
        change = torch.randn_like(state[-1] if name != "MLSTM" else state[1])
        if name == "MLSTM":  # C, n and m, of which C = exp(m) C' is linear
            other = (state[0], state[1] + change, *state[2:])
            after, after_other = (mixer(x[:, 2:], s)[1] for s in (state, other))
            moved = (after_other[1] - after[1]) * (after[3] - state[3]).exp()[..., None, None]
        else:
            other = (*state[:-1], state[-1] + change)
            after, after_other = (mixer(x[:, 2:], s)[1] for s in (state, other))
            moved = after_other[-1] - after[-1]
        A = mixer.transitions(x[:, 2:], state).matrices().double()
    expected = change.reshape(2, A.shape[2], A.shape[-1], -1)
    for t in range(3):
        expected = A[:, t] @ expected
    assert torch.allclose(moved.reshape(expected.shape), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODELS if "3" not in name and "more" not in name])
def test_the_range_from_0_to_1_has_no_negative_eigenvalue(name):
    model, tokens = model_and_tokens(name, eigenvalue_range=(0, 1))
    one = summarize([*eigenvalues(model, tokens).values()])
    assert one.share_negative == 0 and one.share_complex == 0 and one.least >= 0
    model, tokens = model_and_tokens(name, eigenvalue_range=(-1, 1))
    assert summarize([*eigenvalues(model, tokens).values()]).share_negative > 0.1


@pytest.mark.parametrize("parallel", [True, False])
def test_two_closed_gates_give_no_negative_eigenvalue(parallel):
    k = torch.nn.functional.normalize(torch.randn(1, 5000, 2, 1, 8), dim=-1)
    if parallel:
        k[:, :, 1] = k[:, :, 0]
    beta = torch.where(torch.rand(1, 5000, 2, 1) < 0.5, 1.0, torch.rand(1, 5000, 2, 1))
    values = HouseholderTransitions(beta, k).eigenvalues()
    assert (values.real >= 0).all() and (values.imag == 0).all() and (values.real < 1 + 1e-6).all()


def test_constructions_show_their_eigenvalues():
    tokens = torch.tensor([[1, 2, 2, 1]])
    (values,) = eigenvalues(parity_delta_net(), tokens).values()
    assert values.flatten().tolist() == [1, -1, -1, 1]
    assert summarize([values]).horizon == LONGEST
    m = 6
    (values,) = eigenvalues(rotation_delta_product(m), torch.tensor([[1]])).values()
    assert torch.allclose(values[0, 0, 0].angle().abs(), torch.full((2,), 2 * math.pi / m), atol=1e-5)


def test_the_horizon_is_the_half_life_of_the_slowest_part_that_changes_sign():
    fast = torch.tensor([0.5, -0.5]).repeat(50).view(1, 100, 1, 1)
    slow = torch.tensor([0.99, -0.99]).repeat(50).view(1, 100, 1, 1)
    forever = torch.ones(1, 100, 1, 1)
    assert summarize([torch.cat([fast, slow], 2), forever]).horizon == pytest.approx(math.log(2) / -math.log(0.99))
    assert summarize([forever]).horizon == LONGEST
    read = torch.arange(100)[None] < 1
    assert summarize([fast], read).share_negative == 0


def test_models_without_a_transition_are_refused():
    for model in (Transformer(vocab_size=5, width=16), SLSTM(vocab_size=5, width=16)):
        with pytest.raises(ValueError, match=r"^model: .* has no layer with a linear state transition$"):
            eigenvalues(model, torch.zeros(1, 4, dtype=torch.int64))
        message = rf"^trainer.callbacks: Spectrum needs a layer .*, {type(model).__name__} has none$"
        with pytest.raises(MisconfigurationException, match=message):
            Spectrum().setup(SimpleNamespace(), model, "fit")
    mixers = {"delta": DeltaNetMixer, "attention": AttentionMixer}
    hybrid = Hybrid(mixers, ["delta", "attention"], vocab_size=5, width=16, layers=4)
    found = eigenvalues(hybrid, torch.zeros(1, 4, dtype=torch.int64))
    assert list(found) == ["backbone.blocks.0.mixer", "backbone.blocks.2.mixer"]
    with pytest.raises(ValueError, match=r"^window: must be from 1 to the number of tokens, 4, got 5$"):
        eigenvalues(hybrid, torch.zeros(1, 4, dtype=torch.int64), window=5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 0}, r"^every: must be at least 1, got 0$"),
        ({"tokens": 1}, r"^window: must be at most tokens \(1\), got 2$"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(**options)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_a_compiled_run_on_a_gpu_logs_its_spectrum(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    fit([
        "--config=conf/parity.yaml", f"--run_dir={tmp_path}/run", "--trainer.accelerator=gpu", "--trainer.max_steps=40",
        "--trainer.callbacks=[]", "--trainer.callbacks+=callbacks.Spectrum", "--trainer.callbacks.every=20",
        "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false",
    ])  # fmt: skip
    folder = next((tmp_path / "run").rglob("events.out.tfevents.*")).parent
    least = EventAccumulator(str(folder)).Reload().Scalars("eigenvalues/least")
    assert [event.step for event in least] == [20, 40] and all(-1 <= event.value < 0.1 for event in least)


def test_a_run_logs_its_spectrum(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = tmp_path / "run"
    fit([
        "--config=conf/parity.yaml", f"--run_dir={run}", "--model.eigenvalue_range=[0,1]", "--trainer.max_steps=4",
        "--trainer.callbacks=[]", "--trainer.callbacks+=callbacks.Spectrum", "--trainer.callbacks.every=2",
        "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false",
    ])  # fmt: skip
    folder = next(run.rglob("events.out.tfevents.*")).parent
    events = EventAccumulator(str(folder)).Reload()
    negative = events.Scalars("eigenvalues/share_negative")
    assert [event.step for event in negative] == [2, 4] and {event.value for event in negative} == {0.0}
    assert events.Scalars("eigenvalues/horizon")[0].value > 0
    assert events.Histograms("eigenvalues/backbone.blocks.0.mixer")[0].histogram_value.num > 0
    spectrum([str(run)], sequences=4, out=str(tmp_path / "spectrum.png"))
    assert (tmp_path / "spectrum.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"^run_dirs: must name different folders, at least one, got \[\]$"):
        spectrum([])
