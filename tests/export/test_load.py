"""An exported folder is read back into our own model."""

import pytest
import torch

from lrnn.export.load import load_exported
from lrnn.models import DeltaNet, Mamba
from lrnn.runtime.errors import ConfigError

pytestmark = pytest.mark.slow
RANGES = ((0, 1), (-1, 1))


@pytest.mark.parametrize("conv_size", [4, 0])
@pytest.mark.parametrize("eigenvalue_range", RANGES)
def test_an_exported_folder_is_read_back_bit_for_bit(eigenvalue_range, conv_size, tmp_path, random_model, exported):
    options = {"eigenvalue_range": eigenvalue_range, "conv_size": conv_size, "norm_eps": 1e-3}
    models = [
        random_model(DeltaNet, heads=2, head_size=24, mlp_width=48, tie_embeddings=conv_size == 4, **options),
        random_model(Mamba, state_size=5, expand=3, tie_embeddings=conv_size == 0, **options),
    ]
    tokens = torch.randint(50, (2, 20))
    for number, model in enumerate(models):
        folder = exported(model, tmp_path / str(number))
        back = load_exported(folder)
        with torch.no_grad():
            assert torch.equal(back(tokens)[0], model(tokens)[0])
    for content in ("[]", "{", '{"model_type": "mamba"}'):
        (folder / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"checkpoint: .* is not a whole folder of python -m lrnn\.export"):
            load_exported(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match=r"checkpoint: .* has a gpt2, only delta_net, mamba, mamba_negative"):
        load_exported(folder)
