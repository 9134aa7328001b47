"""The full-matrix baseline against its equations in float64, and against permutation matrices of a group."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import GroupWordProblem
from lrnn.models import Layer, TokenMatrices
from lrnn.models.token_matrices import MatrixProductMixer
from lrnn.theory.spectra import transitions


def products(model, tokens):
    """Running products of the tokens' matrices (B, T, n, n), by their definition."""
    n = model.hparams["matrix_size"]
    A = model.backbone.embedding.weight.double().view(-1, n, n)
    H, states = torch.eye(n, dtype=torch.float64), []
    for t in range(tokens.shape[1]):
        H = A[tokens[:, t]] @ H
        states.append(H)
    return torch.stack(states, 1)


def logits(model, tokens):
    h = products(model, tokens).flatten(2)
    h = h / h.norm(dim=-1, keepdim=True).clamp(min=1)
    return h @ model.backbone.head.weight.double().T


@pytest.mark.parametrize("gain", [0.3, 1.0, 30.0])  # states vanish, stay, or outgrow float32
def test_logits_loss_and_gradients_are_those_of_the_equations(gain):
    model = TokenMatrices(matrix_size=4, vocab_size=7)
    tokens = torch.randint(7, (3, 40))
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(gain)
        torch.testing.assert_close(model(tokens)[0].double(), logits(model, tokens), rtol=1e-4, atol=1e-4)
    model.double()
    labels = torch.randint(7, (3, 40))
    losses = model.loss(tokens, labels), F.cross_entropy(logits(model, tokens).flatten(0, 1), labels.flatten())
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, list(model.parameters())) for loss in losses))
    model.one_label = True
    last = torch.full_like(labels, -100)
    last[:, 30] = labels[:, 30]
    want = F.cross_entropy(logits(model, tokens)[:, 30], labels[:, 30])
    torch.testing.assert_close(model.loss(tokens, last), want)


def test_steps_and_pieces_give_what_one_call_gives():
    model = TokenMatrices(matrix_size=3, vocab_size=5).double().eval()
    tokens = torch.randint(5, (2, 30))
    want, final = model(tokens)
    for pieces in ([1] * 30, [1, 2, 20, 7]):
        state, got = None, []
        for piece in tokens.split(pieces, dim=1):
            out, state = model(piece, state)
            got.append(out)
        torch.testing.assert_close(torch.cat(got, 1), want)
        torch.testing.assert_close(state, final)


@settings(max_examples=30, deadline=None)
@given(
    gains=st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 40)), min_size=1, max_size=5),
    cut=st.integers(1, 10),
    seed=st.integers(0, 99),
)
@example(gains=[(3, 14), (-3, 14)], cut=10, seed=0)  # to 2^42 and back
@example(gains=[(3, 40), (-3, 38), (-1, 10), (1, 8)], cut=7, seed=0)  # to 2^120, into the unit ball and out again
@example(gains=[(3, 40), (-3, 20), (-3, 40)], cut=9, seed=0)  # to 2^-60
@example(gains=[(-1, 17), (-3, 40), (1, 26)], cut=1, seed=0)  # to 2^-137, where float32 has few digits, and to 2^-111
def test_products_that_outgrow_float32_and_shrink_again(gains, cut, seed):
    """Values and gradients in float32, in pieces, against plain products in float64, which reach 2^1000."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.cat(
        [2.0**gain * torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))[0] for gain, count in gains]
    )
    A, weight = A.flatten(1)[None], torch.randn(9, generator=generator)
    mixer, x, state, pieces = MatrixProductMixer(Layer(9)), A.clone().requires_grad_(), None, []
    for piece in x.split(cut, dim=1):
        y, state = mixer(piece, state)
        pieces.append(y)
    wide, H, products = A.double().requires_grad_(), torch.eye(3, dtype=torch.float64), []
    for A_t in wide.view(-1, 3, 3):
        H = A_t @ H
        products.append(H.flatten())
    h = torch.stack(products)[None]
    want, got = h / h.norm(dim=-1, keepdim=True).clamp_min(1), torch.cat(pieces, 1)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    (expected,), (found,) = (
        torch.autograd.grad((y[0, -1] * weight.to(y)).sum(), z) for y, z in ((want, wide), (got, x))
    )
    scale = expected.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(found.double() / scale, expected / scale, rtol=0, atol=1e-3)
    product = state[1][0].double() * state[0][0].double().exp2()
    assert (product - H).norm() <= 1e-4 * H.norm() + 1e-37


def test_weights_in_bfloat16_leave_the_state_in_float32():
    model = TokenMatrices(matrix_size=4, vocab_size=5).bfloat16()
    logits, state = model(torch.randint(5, (2, 50)))
    assert logits.dtype == torch.bfloat16 and {x.dtype for x in state[0][0]} == {torch.float32}


def test_transitions_are_the_matrices_of_the_tokens():
    model = TokenMatrices(matrix_size=3, vocab_size=5)
    tokens = torch.randint(5, (2, 6))
    [found] = transitions(model, tokens).values()
    assert torch.equal(found.matrices()[:, :, 0], model.backbone.embedding.weight.view(5, 3, 3)[tokens])
    torch.testing.assert_close(found.eigenvalues().abs(), torch.ones(2, 6, 1, 3))  # they start orthogonal


def test_bfloat16_autocast_leaves_the_state_in_float32():
    model = TokenMatrices(matrix_size=4, vocab_size=5).eval()
    tokens = torch.randint(5, (2, 50))
    want, _ = model(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, state = model(tokens)
    assert state[0][0][-1].dtype == torch.float32
    assert ((got.float() - want).norm() / want.norm()).item() < 0.02


def test_permutation_matrices_solve_a_group_at_any_length():
    task = GroupWordProblem("S4", train_lengths=(1, 8), evaluation_labels="every_token")
    model = TokenMatrices(matrix_size=4, vocab_size=task.vocab_size).eval()
    permutations = torch.eye(4)[task.group.permutations].mT  # column i is the unit vector of the image of i
    with torch.no_grad():
        weight = model.backbone.embedding.weight.view(-1, 4, 4)
        weight.copy_(torch.eye(4))  # of BOS
        weight[: task.group.order] = permutations
        model.backbone.head.weight.zero_()[: task.group.order] = permutations.flatten(1)
        for batch in task.evaluation_batches(700, 700, 8):
            assert torch.equal(model(batch.inputs)[0].argmax(-1), batch.labels)


def test_options_that_it_does_not_have():
    with pytest.raises(ValueError, match=r"model\.matrix_size: must be at least 1, got 0"):
        TokenMatrices(matrix_size=0)
    with pytest.raises(TypeError, match="mlp_width"):
        TokenMatrices(mlp_width=4)
    decayed, kept = TokenMatrices(matrix_size=3, vocab_size=4, weight_decay=0.5).decay_groups()
    assert [tuple(weight.shape) for weight in decayed] == [(4, 9), (4, 9)] and not kept


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's, when a run resumes
def test_a_run_of_the_papers_protocol_resumes_bit_for_bit(train_whole_and_cut, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    options = [
        "--config=conf/paper/groups_protocol.yaml",
        "--config=conf/paper/models/groups_full_matrix.yaml",
        "--model.matrix_size=4",
        "--data.batch_size=8",
        "--trainer.accelerator=cpu",
        "--trainer.max_steps=4",
        "--trainer.callbacks=[]",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]
    whole = train_whole_and_cut(options, step=2)
    assert whole.trainer.optimizers[0].param_groups[0]["lr"] == 1e-4  # after the last step too
