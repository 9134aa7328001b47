"""Prompts that are continued side by side against each alone, read again from its start for every token."""

import pytest
import torch

from lrnn.models import MLSTM, AttentionMixer, DeltaNet, DeltaNetMixer, Hybrid, Mamba
from lrnn.models.decoding import NonFiniteLogitsError, Sampling, continue_prompts, read_prompts, round_products

SIZE = {"width": 32, "vocab_size": 30, "layers": 2, "init_std": 0.3}
MODELS = {
    "DeltaNet": lambda: DeltaNet(conv_size=4, mlp_width=32, **SIZE),
    "Mamba": lambda: Mamba(**SIZE),
    "mLSTM": lambda: MLSTM(**SIZE),
    "hybrid": lambda: Hybrid(
        {"delta": DeltaNetMixer, "attention": AttentionMixer}, ["delta", "attention"], mlp_width=32, **SIZE
    ),
}
PROMPTS = [[7, 1, 4], [3], [9, 9, 2, 5, 6, 1, 1], [8, 2, 2], [5, 4, 3, 2, 1, 0, 1], [11, 12]]


def read_again(model, tokens):
    return model(torch.tensor([tokens]))[0][0, -1]


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]().double().eval()


@torch.no_grad()
def test_prompts_of_different_lengths_are_read_as_each_alone(model, monkeypatch):
    monkeypatch.setattr("lrnn.models.decoding.prompts.TOKENS", 12)  # so that the long prompts take several calls
    seen = []
    for rows, logits, state in read_prompts(model, PROMPTS):
        seen += rows
        for i, row in enumerate(rows):
            torch.testing.assert_close(logits[i], read_again(model, PROMPTS[row]))
        stepped = model.step(torch.tensor([13] * len(rows)), state)[0]
        for i, row in enumerate(rows):
            torch.testing.assert_close(stepped[i], read_again(model, [*PROMPTS[row], 13]))
    assert sorted(seen) == [*range(len(PROMPTS))]


@torch.no_grad()
def test_the_likeliest_tokens_are_those_of_each_prompt_alone(model):
    def ends(row, sampled):  # rows end at different times, two of them at the first token
        return len(sampled) == (1, 5, 3, 8, 1, 6)[row]

    got = continue_prompts(model, PROMPTS, 7, ends=ends)
    for row, length in enumerate((1, 5, 3, 7, 1, 6)):
        tokens = [*PROMPTS[row]]
        for _ in range(length):
            tokens.append(int(read_again(model, tokens).argmax()))
        assert got[row] == tokens[len(PROMPTS[row]) :]


def test_draws_of_a_prompt_do_not_depend_on_the_others():
    model, sampling = MODELS["DeltaNet"]().double().eval(), Sampling(1.0, None, 0.9, seed=5)
    together = continue_prompts(model, PROMPTS, 6, sampling)
    alone = [continue_prompts(model, [prompt], 6, sampling, streams=[row])[0] for row, prompt in enumerate(PROMPTS)]
    assert together == alone and continue_prompts(model, PROMPTS[:1] * 2, 6, sampling)[1] != together[0]


@pytest.mark.parametrize(("top_k", "top_p"), [(None, 1.0), (5, 1.0), (None, 0.6), (6, 0.5)])
def test_tokens_are_drawn_by_their_probability(top_k, top_p):
    logits = 2 * torch.randn(1, 12)
    p = torch.softmax(logits[0] / 0.7, 0)
    order = p.argsort(descending=True).tolist()[:top_k]
    p = p / sum(p[i] for i in order)
    kept = [i for rank, i in enumerate(order) if sum(p[j] for j in order[:rank]) < top_p]
    wanted = torch.tensor([float(p[i]) if i in kept else 0.0 for i in range(12)])
    wanted = wanted / wanted.sum()
    n = 20_000
    uniform = (torch.arange(n) + 0.5) / n
    drawn = Sampling(0.7, top_k, top_p).choose(logits.expand(n, -1), uniform, torch.ones(1, 12, dtype=torch.bool))
    torch.testing.assert_close(drawn.bincount(minlength=12) / n, wanted, atol=2e-4, rtol=0)
    assert set(drawn.tolist()) <= {*kept}


def test_a_temperature_near_0_takes_the_likeliest_token():
    logits, draw = 100 * torch.randn(3, 12), torch.full((3,), 0.99)
    for temperature in (0, 5e-324, 1e-40, 1e-20):
        chosen = Sampling(temperature).choose(logits, draw, torch.ones(3, 12, dtype=torch.bool))
        assert torch.equal(chosen, logits.argmax(-1))


def test_only_allowed_tokens_come_until_all_may():
    asked = []

    def allowed(row, sampled):
        asked.append((row, len(sampled)))
        only = torch.zeros(30, dtype=torch.bool)
        only[20 + row] = True
        return only if len(sampled) < row else None

    got = continue_prompts(MODELS["DeltaNet"]().eval(), [[1], [1], [1, 2, 3]], 4, allowed=allowed)
    assert got[1][:1] == [21] and got[2][:2] == [22, 22] and len(got[0]) == 4
    assert sorted(asked) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]


def test_weights_of_products_in_16_bits_give_what_autocast_gives():
    model = DeltaNet(conv_size=4, mlp_width=32, tie_embeddings=True, **SIZE).eval()
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        before = model(tokens)[0]
        round_products(model, torch.bfloat16)
        assert torch.equal(model(tokens)[0], before)
    assert model.backbone.head.weight.dtype == torch.bfloat16
    assert model.backbone.embedding.weight.dtype == torch.float32


def test_bad_input_is_named():
    model = MODELS["DeltaNet"]().eval()
    with pytest.raises(ValueError, match="prompts: each must have at least one token"):
        continue_prompts(model, [[1], []], 2)
    torch.nn.init.constant_(model.backbone.norm.weight, float("nan"))
    with pytest.raises(NonFiniteLogitsError, match="the model gives logits that are not finite"):
        continue_prompts(model, [[1]], 2)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["DeltaNet", "Mamba", "mLSTM"])
def test_a_recorded_step_gives_what_an_eager_one_gives(name):
    model = MODELS[name]().cuda().eval()

    def ends(row, sampled):  # more than half of the rows end, so that the step is recorded again
        return len(sampled) == (30, 9, 12, 40, 9, 9)[row]

    for sampling in (Sampling(), Sampling(0.8, 10, 0.9, seed=3)):
        recorded, eager = (continue_prompts(model, PROMPTS, 40, sampling, ends=ends, graph=g) for g in (True, False))
        assert recorded == eager and len(recorded[3]) == 40
