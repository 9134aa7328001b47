"""Mamba, exported and loaded by transformers: logits, decoding, padding and states."""

import pytest
import torch
import torch.nn.functional as F

from lrnn.models import Mamba
from lrnn.models.decoding import continue_prompts

pytestmark = pytest.mark.slow
RANGES = ((0, 1), (-1, 1))


@pytest.fixture
def load_mamba(load):
    def load_in_range(folder, eigenvalue_range, **options):
        if eigenvalue_range == (0, 1):  # flash-linear-attention, once imported, puts its own behind "Auto"
            return load(folder, "MambaForCausalLM", **options)
        model = load(folder, trust_remote_code=True, **options)
        assert type(model).__module__.startswith("transformers_modules.")
        return model

    return load_in_range


@pytest.mark.parametrize("conv_size", [4, 0])
@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mamba_in_transformers(eigenvalue_range, conv_size, random_model, largest_difference, exported, load_mamba):
    options = {"state_size": 3, "expand": 3, "dt_scale": 8.0, "norm_eps": 1e-3, "tie_embeddings": conv_size == 4}
    model = random_model(Mamba, eigenvalue_range=eigenvalue_range, conv_size=conv_size, **options)
    folder = exported(model, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    theirs = load_mamba(folder, eigenvalue_range)
    tokens = torch.randint(50, (2, 90))
    with torch.no_grad():
        want, _ = model(tokens)
        assert largest_difference(theirs(tokens).logits, want) <= 1e-4

    # token by token, from a prompt shorter than the convolution and from a long one
    for prompt in (tokens[0, :2], tokens[0, :70]):
        (ours,) = continue_prompts(model, [prompt.tolist()], 20)
        continued = theirs.generate(prompt[None], max_new_tokens=20, do_sample=False, eos_token_id=None)
        assert continued[0, len(prompt) :].tolist() == ours and len(set(ours)) > 2
        step = theirs(prompt[None], use_cache=True)
        for token in ours:
            got = theirs(torch.tensor([[token]]), cache_params=step.cache_params, use_cache=True).logits
            prompt = torch.cat([prompt, torch.tensor([token])])
            with torch.no_grad():
                assert largest_difference(got[0, -1], model(prompt[None])[0][0, -1]) <= 1e-4

    # a batch with padding on the left
    padded = F.pad(tokens[:, 10:], (10, 0))
    mask = F.pad(torch.ones_like(tokens[:, 10:]), (10, 0))
    with torch.no_grad():
        got, want = theirs(padded, attention_mask=mask).logits, model(tokens[:, 10:])[0]
    assert largest_difference(got[:, 10:], want) <= 1e-4


@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_generation_of_mamba_in_two_calls_is_that_of_one(eigenvalue_range, random_model, exported, load_mamba):
    """The second call reads what the first has not: one token of each row."""
    theirs = load_mamba(exported(random_model(Mamba, eigenvalue_range=eigenvalue_range)), eigenvalue_range)
    tokens, mask = torch.randint(50, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    mask[1, :4] = 0
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "return_dict_in_generate": True}
    whole = theirs.generate(tokens, attention_mask=mask, max_new_tokens=12, **options).sequences
    first = theirs.generate(tokens, attention_mask=mask, max_new_tokens=5, **options)
    state, unread = first.past_key_values, first.sequences[:, -1:]
    second = theirs.generate(unread, cache_params=state, max_new_tokens=7, **options)
    assert torch.equal(torch.cat([first.sequences, second.sequences[:, 1:]], dim=1), whole)
    assert second.past_key_values is state and len(set(whole[:, 7:].flatten().tolist())) > 2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_state_of_negative_mamba_reads_several_unread_tokens(random_model, largest_difference, exported, load_mamba):
    """transformers' own Mamba takes the same arguments, but starts from h = 0: ours is compared with one reading."""
    theirs = load_mamba(exported(random_model(Mamba, eigenvalue_range=(-1, 1))), (-1, 1))
    tokens, mask = torch.randint(50, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[1, :4] = 0
    options = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        whole, logits = theirs.generate(tokens, attention_mask=mask, **options), theirs(tokens, mask).logits
        for cut in (2, 5, 11):
            before = theirs(tokens[:, :cut], mask[:, :cut]).cache_params
            kept = before.copy()
            for given in (None if cut > 4 else mask[:, cut:], mask):  # the mask of unread tokens, that of all tokens
                state = kept.copy()
                got = theirs(tokens[:, cut:], given, cache_params=state, use_cache=False).logits
                assert largest_difference(got, logits[:, cut:]) <= 1e-4
                for use_cache in (False, True):  # the first leaves the state as it was
                    asked = {"attention_mask": given, "cache_params": state, "use_cache": use_cache}
                    got = theirs.generate(tokens[:, cut:], **asked, **options)
                    assert torch.equal(got, whole[:, cut:])
        with pytest.raises(ValueError, match="attention_mask: padding after the beginning of a text"):
            theirs(tokens, mask, cache_params=before)
        with pytest.raises(ValueError, match="attention_mask: must cover 12 tokens, 7 do"):
            theirs(tokens, mask[:, :7])
        assert isinstance(theirs(tokens, return_dict=False), tuple)
        sums = [theirs(tokens, labels=tokens, num_items_in_batch=n).loss * n for n in (33, 66)]  # as trainers ask for
        assert torch.isclose(*sums) and torch.isclose(sums[0] / 33, theirs(tokens, labels=tokens).loss)


@pytest.mark.parametrize("eigenvalue_range", RANGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mamba_in_transformers_in_bfloat16(
    eigenvalue_range, counting, taught_model, largest_difference, exported, load_mamba
):
    model = taught_model(Mamba, eigenvalue_range=eigenvalue_range)
    folder = exported(model)
    theirs = load_mamba(folder, eigenvalue_range, dtype=torch.bfloat16)
    tokens = counting(90)
    with torch.no_grad():
        assert largest_difference(theirs(tokens).logits, model(tokens)[0]) <= 2e-2
