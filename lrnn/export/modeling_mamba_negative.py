"""Mamba whose state-transition eigenvalues lie in (-1, 1) instead of (0, 1) (Grazzi et al., ICLR 2025).

    h_t = a_t * h_{t-1} + dt_t * B_t * u_t        a_t = 2 exp(dt_t * A) - 1        y_t = C_t . h_t + D * u_t

Everything else is Mamba (Gu & Dao 2023), and the weights have the names of transformers' own Mamba. This file needs
only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

Glossary: batch b, tokens T, width W, D channels with N states each.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

CHUNK = 64  # tokens whose transitions are held at once


class MambaNegativeConfig(PretrainedConfig):
    model_type = "mamba_negative"

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 1024,
        state_size: int = 16,
        num_hidden_layers: int = 48,
        layer_norm_epsilon: float = 1e-5,
        expand: int = 2,
        conv_kernel: int = 4,
        use_conv_bias: bool = True,
        time_step_rank: int = 64,
        use_cache: bool = True,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.state_size = state_size
        self.num_hidden_layers = num_hidden_layers
        self.layer_norm_epsilon = layer_norm_epsilon
        self.expand = expand
        self.conv_kernel = conv_kernel
        self.use_conv_bias = use_conv_bias
        self.time_step_rank = time_step_rank
        self.use_cache = use_cache
        self.initializer_range = initializer_range
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


class MambaNegativeState:
    """State of the model: for each layer the last inputs of the convolution, and h. Its size does not grow.

    The tensors of a state are replaced, never written to, so that `copy` needs to copy none of them.
    """

    is_compileable = False  # `generate` reads these two, which transformers' own caches have
    is_croppable = False

    def __init__(self, layers: int):
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def copy(self) -> "MambaNegativeState":
        state = MambaNegativeState(0)
        state.layers = list(self.layers)
        return state

    def has_text(self, rows: Tensor) -> bool:
        """Whether any of these rows (b,), a mask, has read a token that is not padding."""
        return self.layers[0] is not None and bool(self.layers[0][1][rows].any())

    def reorder_cache(self, beams: Tensor) -> None:
        self.layers = [state and (state[0][beams], state[1][beams]) for state in self.layers]


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x.to(self.weight.dtype) * self.weight


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """u, dt (b, T, D), A (D, N), B, C (b, T, N), h (b, D, N) -> y (b, T, D), the last h; in float32."""
    outputs = []
    for chunk in zip(*(x.float().split(CHUNK, dim=1) for x in (u, dt, B, C)), strict=True):
        u, dt, B, C = chunk
        a = 2 * torch.exp(dt[..., None] * A) - 1  # (b, chunk, D, N)
        x = (dt * u)[..., None] * B[:, :, None]
        states = []
        for t in range(a.shape[1]):
            h = torch.addcmul(x[:, t], a[:, t], h)
            states.append(h)
        outputs.append((torch.stack(states, dim=1) @ C[..., None])[..., 0])
    return torch.cat(outputs, dim=1), h


class Mixer(nn.Module):
    def __init__(self, config: MambaNegativeConfig):
        super().__init__()
        channels, kernel = config.expand * config.hidden_size, config.conv_kernel
        self.splits = [config.time_step_rank, config.state_size, config.state_size]
        self.in_proj = nn.Linear(config.hidden_size, 2 * channels, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, kernel, groups=channels, bias=config.use_conv_bias)
        self.x_proj = nn.Linear(channels, sum(self.splits), bias=False)
        self.dt_proj = nn.Linear(config.time_step_rank, channels)
        self.A_log = nn.Parameter(torch.arange(1.0, config.state_size + 1).log().repeat(channels, 1))
        self.D = nn.Parameter(torch.ones(channels))
        self.out_proj = nn.Linear(channels, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (b, T, W), the state after the tokens before, mask (b, T, 1) -> y (b, T, W), the state after x."""
        if mask is not None:  # padding reaches h neither by its input nor by the convolution: h is 0 before the text
            x = x * mask
        u, z = self.in_proj(x).chunk(2, dim=-1)
        if state is None:
            past = u.new_zeros(u.shape[0], self.conv1d.kernel_size[0] - 1, u.shape[2])
            h = u.new_zeros(u.shape[0], u.shape[2], self.A_log.shape[1], dtype=torch.float32)
        else:
            past, h = state
        past = torch.cat([past, u], dim=1)  # (b, kernel - 1 + T, D)
        u = F.silu(self.conv1d(past.mT).mT)
        if mask is not None:
            u = u * mask
        r, B, C = self.x_proj(u).split(self.splits, dim=-1)
        dt = F.softplus(F.linear(r, self.dt_proj.weight).float() + self.dt_proj.bias.float())
        y, h = selective_scan(u, dt, -torch.exp(self.A_log.float()), B, C, h)
        y = self.out_proj(((y + self.D * u) * F.silu(z)).to(x.dtype))
        return y, (past[:, past.shape[1] - self.conv1d.kernel_size[0] + 1 :], h)


class Block(nn.Module):
    def __init__(self, config: MambaNegativeConfig):
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = Mixer(config)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, state = self.mixer(self.norm(x), state, mask)
        return x + y, state


class Backbone(nn.Module):
    def __init__(self, config: MambaNegativeConfig):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)

    def forward(self, tokens: Tensor, state: MambaNegativeState, mask: Tensor | None) -> Tensor:
        """tokens (b, T) -> x (b, T, W); the state is brought up to date."""
        x = self.embeddings(tokens).float()  # the residual stream
        for i, block in enumerate(self.layers):
            x, state.layers[i] = block(x, state.layers[i], mask)
        return self.norm_f(x)


@dataclass
class MambaNegativeOutput(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None
    cache_params: MambaNegativeState | None = None


class MambaNegativeForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = MambaNegativeConfig
    base_model_prefix = "backbone"
    _no_split_modules = ["Block"]  # noqa: RUF012  transformers wants a list
    _tied_weights_keys = {"lm_head.weight": "backbone.embeddings.weight"}  # noqa: RUF012  transformers' format
    _is_stateful = True

    def __init__(self, config: MambaNegativeConfig):
        super().__init__(config)
        self.backbone = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        cache_params: MambaNegativeState | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Leave out the tokens that the state has read.

        A state that the user gives has read none of `input_ids`. After the first iteration, it has read all but the
        last.
        """
        if cache_params is not None and use_cache is not False and not is_first_iteration:
            input_ids, attention_mask = input_ids[:, -1:], None
        return {
            "input_ids": input_ids,
            "cache_params": cache_params,
            "attention_mask": attention_mask,
            "use_cache": use_cache,
            "logits_to_keep": 1,
        }

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache_params: MambaNegativeState | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MambaNegativeOutput | tuple[Any, ...]:
        """Compute the logits (b, T, vocabulary), or those of the last `logits_to_keep` tokens.

        Args:
            input_ids: Tokens (b, T) that `cache_params` has not read.
            attention_mask: 0 for padding, which is on the left: (b, T), or (b, more) with a column for each token that
                was read before, too.
            cache_params: State after the tokens before. It is brought up to date, unless `use_cache` is false.
            labels: Tokens (b, T) to predict, not shifted; -100 for those that do not count.
            use_cache: Whether to return the state.
            kwargs: `num_items_in_batch`, by which the sum of the losses is divided.

        Raises:
            ValueError: if the mask does not fit, or has padding after a text that `cache_params` has read.
        """
        use_cache = self.config.use_cache if use_cache is None else use_cache
        state = cache_params or MambaNegativeState(len(self.backbone.layers))
        if not use_cache:
            state = state.copy()
        mask = None
        if attention_mask is not None:
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
            if attention_mask.shape != input_ids.shape:
                raise ValueError(
                    f"attention_mask: must cover {input_ids.shape[1]} tokens, {attention_mask.shape[1]} do"
                )
            if state.has_text((attention_mask == 0).any(dim=1)):
                raise ValueError("attention_mask: padding after the beginning of a text is not supported")
            mask = attention_mask[..., None].to(self.dtype)
        x = self.backbone(input_ids, state, mask)
        logits = self.lm_head(x[:, -logits_to_keep:]).float()
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        output = MambaNegativeOutput(loss=loss, logits=logits, cache_params=state if use_cache else None)
        return output.to_tuple() if return_dict is False else output
