"""Auxiliary terms and labels: what a step learns does not depend on how its batch is split or its loss scaled."""

import lightning as L
import pytest
import torch

from callbacks import ActivationCheckpointing
from data import Parity
from lrnn.models import DeltaNet, Layer, Mamba, Mixer
from lrnn.models.layers import SwiGLU

SMALL = {"width": 16, "layers": 2, "conv_size": 0}
ARCHITECTURES = ((DeltaNet, {"heads": 2, "mlp_width": 32}), (Mamba, {"state_size": 4}))
both = pytest.mark.parametrize(("architecture", "options"), ARCHITECTURES)


def make(architecture, strength, **options):
    torch.manual_seed(0)
    return architecture(**SMALL, **options, gate_saturation=strength).double()


def gradient(model, batch, parts=1, scale=1.0, half=False):
    """Compute the gradient of the mean over equal parts of a batch, as Lightning accumulates it, under a loss scale."""
    model.zero_grad()
    for inputs, labels in zip(batch.inputs.chunk(parts), batch.labels.chunk(parts), strict=True):
        with torch.autocast("cpu", torch.float16, enabled=half):
            loss = model.loss(inputs, labels)
        (scale * (loss / parts)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]) / scale


def draw(supervision="last"):
    return Parity(supervision, batch_size=32).training_batch(range(32), torch.device("cpu"))


@both
@pytest.mark.parametrize(("parts", "scale"), [(2, 1.0), (4, 1.0), (8, 1.0), (32, 1.0), (1, 65_536.0), (4, 65_536.0)])
def test_the_push_does_not_depend_on_the_split_of_a_batch_or_on_the_loss_scale(architecture, options, parts, scale):
    models = [make(architecture, strength, **options) for strength in (0.3, 0.0)]
    pushed, plain = (gradient(model, draw(), parts, scale) for model in models)
    pushed_whole, plain_whole = (gradient(model, draw()) for model in models)
    torch.testing.assert_close(pushed - plain, pushed_whole - plain_whole)
    assert (pushed - plain).norm() > 0.01 * plain.norm()


@both
def test_the_push_arrives_under_float16_with_a_scaled_loss(architecture, options):
    model, batch, scale = make(architecture, 0.3, **options), draw(), 8_192.0
    exact = gradient(model, batch)
    got = gradient(model.float(), batch, scale=scale, half=True)
    assert (got - exact).norm() < 0.02 * exact.norm()


@both
def test_the_loss_is_the_cross_entropy_and_its_gradient_has_the_terms(architecture, options):
    model, plain, batch = make(architecture, 0.3, **options), make(architecture, 0.0, **options), draw()
    loss = model.loss(batch.inputs, batch.labels)
    assert torch.equal(loss, plain.loss(batch.inputs, batch.labels))
    terms = model.backbone.residual_stream(batch.inputs)[2]
    torch.testing.assert_close(model.auxiliary_terms, {"gate_saturation": terms["gate_saturation"].detach()})
    sum_of_all = plain.loss(batch.inputs, batch.labels)
    want = torch.autograd.grad(sum_of_all, list(plain.parameters()))
    added = torch.autograd.grad(terms["gate_saturation"], list(model.parameters()), materialize_grads=True)
    got = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(got, tuple(a + b for a, b in zip(want, added, strict=True)))


def test_evaluation_and_models_without_terms_do_without():
    batch = draw()
    for model in (make(DeltaNet, 0.3).eval(), make(DeltaNet, 0.0)):
        loss = model.loss(batch.inputs, batch.labels)
        assert not model.auxiliary_terms and "WithGradient" not in type(loss.grad_fn).__name__


@pytest.mark.slow
@both
@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's own
def test_recomputed_and_compiled_blocks_count_their_terms_once(architecture, options):
    batch, grads = draw(), []
    for compiled in (False, True):
        model = make(architecture, 0.3, **options)
        grads.append(gradient(model, batch))
        torch._dynamo.reset()
        for block in model.backbone.blocks if compiled else ():
            block.transform = torch.compile(block.transform, backend="eager", fullgraph=True, dynamic=False)
        ActivationCheckpointing().on_fit_start(None, model)
        grads.append(gradient(model, batch))
    for other in grads[1:]:
        torch.testing.assert_close(other, grads[0])


class Penalized(Mixer):
    """An MLP with a penalty on its output."""

    has_auxiliary_terms = True

    def __init__(self, layer: Layer):
        super().__init__()
        self.mlp = SwiGLU(layer, 8)

    def forward(self, x, state=None, terms=None):
        y, state = self.mlp(x)
        if terms is not None:
            terms["gate_saturation"] = 1 + 0 * y.mean()
            terms["size"] = y.square().mean()
        return y, state


def test_terms_of_one_name_are_summed_over_mixers_and_blocks():
    batch = draw()
    model, alone = make(DeltaNet, 0.3, channel_mixer=Penalized), make(DeltaNet, 0.3)
    model.load_state_dict(alone.state_dict(), strict=False)
    for block in model.backbone.blocks:
        torch.nn.init.zeros_(block.channel_mixer.mlp.down.weight)
    values = []
    for each in (model, alone):
        each.loss(batch.inputs, batch.labels)
        values.append(each.auxiliary_terms)
    assert values[0].keys() == {"gate_saturation", "size"} and values[0]["size"] == 0
    torch.testing.assert_close(values[0]["gate_saturation"], values[1]["gate_saturation"] + 2)


@both
@pytest.mark.parametrize("parts", [2, 8, 32])
def test_parts_with_different_numbers_of_labels_weigh_as_in_one_batch(architecture, options, parts):
    model, batch = make(architecture, 0.3, **options), draw("every_prefix")
    batch.labels[0] = -100  # with 32 parts, one without a label
    whole = gradient(model, batch)
    assert parts == 32 or (gradient(model, batch, parts) - whole).norm() > 0.01 * whole.norm()
    model.labels_per_batch = int((batch.labels != -100).sum()) / parts
    torch.testing.assert_close(gradient(model, batch, parts), whole)
    assert model.loss(batch.inputs[:1], batch.labels[:1]) == 0  # NaN would stop the run


def test_a_second_training_of_a_model_logs_its_own_loss(tmp_path):
    model = make(DeltaNet, 0.3, heads=2, learning_rate=0.1)
    for _ in range(2):
        data = Parity(batch_size=32)
        loss = model.loss(*data.training_batch(range(32), torch.device("cpu")))
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(accelerator="cpu", max_steps=1, log_every_n_steps=1, default_root_dir=tmp_path, **options)
        trainer.fit(model, data)
        torch.testing.assert_close(trainer.callback_metrics["train/loss"], loss.detach(), check_dtype=False)
