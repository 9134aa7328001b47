"""The network between tokens and logits: embedding, pre-norm residual blocks, final norm, head."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lrnn.models.auxiliary_terms import Terms, merge
from lrnn.models.layers import Norm, make_add_norm
from lrnn.models.mixer import Layer, Mixer, MixerState
from lrnn.ops import dtype_of_products

BlockState = tuple[MixerState, MixerState]  # of the mixer and of the channel mixer; () without a channel mixer


class Block(nn.Module):
    """x + mixer(norm(x)), then x + channel_mixer(norm(x)) where the model has a channel mixer.

    A block takes the residual stream as two terms, both (B, T, width), and returns it as two terms: the stream and the
    branch of its last mixer. The next norm adds them, which saves a pass over memory.
    """

    def __init__(self, layer: Layer, mixer: Mixer, channel_mixer: Mixer | None = None, norm: Norm = "rms"):
        super().__init__()
        self.mixer_norm = make_add_norm(norm, layer.width, layer.norm_eps, layer.form)
        self.mixer = mixer
        has_channel_mixer = channel_mixer is not None
        self.channel_norm = make_add_norm(norm, layer.width, layer.norm_eps, layer.form) if has_channel_mixer else None
        self.channel_mixer = channel_mixer
        self.residual = layer.residual
        self.keeps_state = False  # whether `transform` returns the recurrent state

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        state: BlockState | None = None,
        positions: Tensor | None = None,
        terms: Terms | None = None,
    ) -> tuple[Tensor, Tensor, BlockState]:
        """Read T tokens; return the residual stream for all of them, or only for those at `positions` (B, P).

        P may be 0 if only the state is needed. The auxiliary terms of the training loss are added to `terms`, if it is
        given.
        """
        mixer_state, channel_state = (None, None) if state is None else state
        x, h = self.mixer_norm(x, y)
        if positions is not None and positions.shape[1] == 0 and _pointwise(self.channel_mixer):
            return x[:, :0], h[:, :0], (self.mixer.advance(h, mixer_state), ())
        x = x if self.residual else torch.zeros_like(x)
        y, mixer_state = _mix(self.mixer, h, mixer_state, terms)
        y = y.to(dtype_of_products(x))  # one dtype in all blocks, so that equal blocks compile once
        if self.channel_norm is None or self.channel_mixer is None:
            return *_at(positions, x, y), (mixer_state, ())
        if self.channel_mixer.pointwise:  # the other tokens are not needed any more
            x, y = _at(positions, x, y)
        x, h = self.channel_norm(x, y)
        x = x if self.residual else torch.zeros_like(x)
        y, channel_state = _mix(self.channel_mixer, h, channel_state, terms)
        if not self.channel_mixer.pointwise:
            x, y = _at(positions, x, y)
        return x, y, (mixer_state, channel_state)

    def transform(
        self, x: Tensor, y: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Terms, Tensor | None]:
        """Run `forward` from the start of a sequence. Only training calls this method.

        Compilers and strategies that shard replace it (`hot_paths` of LanguageModel).

        Returns:
            the two terms of the residual stream; the auxiliary terms of the loss, of which most blocks have none; and
            the recurrent state after the last token (B, recurrent_size), or None without `keeps_state`.
        """
        terms: Terms = {}
        x, y, (mixer_state, _) = self.forward(x, y, None, positions, terms if self.training else None)
        return x, y, terms, mixer_state[-1].flatten(1) if self.keeps_state else None


def _pointwise(channel_mixer: Mixer | None) -> bool:
    return channel_mixer is None or channel_mixer.pointwise


def _mix(mixer: Mixer, h: Tensor, state: MixerState | None, terms: Terms | None) -> tuple[Tensor, MixerState]:
    if terms is None or not mixer.has_auxiliary_terms:
        return mixer(h, state)
    own: Terms = {}
    y, state = mixer(h, state, own)
    terms.update(merge(terms, own))
    return y, state


def _at(positions: Tensor | None, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if positions is None:
        return x, y
    return x.take_along_dim(positions[..., None], dim=1), y.take_along_dim(positions[..., None], dim=1)


class Backbone(nn.Module):
    """Maps tokens (B, T) to logits (B, T, vocab_size) and the state of every block."""

    def __init__(
        self,
        vocab_size: int,
        layers: list[Layer],
        make_mixer: Callable[[Layer], Mixer],
        make_channel_mixer: Callable[[Layer], Mixer] | None = None,
        norm: Norm = "rms",
        tie_embeddings: bool = False,
    ):
        super().__init__()
        width, eps, form = layers[0].width, layers[0].norm_eps, layers[0].form
        self.embedding = nn.Embedding(vocab_size, width)
        blocks = []
        for layer in layers:
            mixer = make_mixer(layer)
            blocks.append(Block(layer, mixer, None if make_channel_mixer is None else make_channel_mixer(layer), norm))
        self.blocks: list[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]  # a list of Blocks
        self.norm = make_add_norm(norm, width, eps, form)
        self.head = nn.Linear(width, vocab_size, bias=False)
        if tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(
        self, tokens: Tensor, state: list[BlockState] | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, list[BlockState]]:
        h, new_state = self.hidden_states(tokens, state, positions)
        return self.head(h), new_state

    def hidden_states(
        self, tokens: Tensor, state: list[BlockState] | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, list[BlockState]]:
        """Return what the head reads, (B, T, width), and the state of every block.

        With `positions` (B, P), the result is (B, P, width): what the head reads for these tokens. P may be 0.
        """
        x, y = self.embed(tokens)
        new_state = []
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            x, y, block_state = block(x, y, None if state is None else state[i], positions if i == last else None)
            new_state.append(block_state)
        return (self.norm(x, y)[1] if x.shape[1] else x), new_state

    def residual_stream(
        self, tokens: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Terms, list[Tensor]]:
        """Return the two terms of the residual stream after the last block, from the start of the sequence.

        Both are (B, T, width), or (B, P, width) for the tokens at `positions` (B, P). The third result is the auxiliary
        terms of the loss, summed over the blocks. The fourth is the recurrent states of the blocks that keep theirs.
        """
        x, y = self.embed(tokens)
        terms: Terms = {}
        states = []
        for block in self.blocks:
            chosen = positions if block is self.blocks[-1] else None
            x, y, more, state = block.transform(x, y, chosen)
            terms = merge(terms, more)
            if state is not None:
                states.append(state)
        return x, y, terms, states

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two terms of the residual stream before the first block; the second is zero.

        Their dtypes are those between two blocks, so that the first block compiles to the same code as the others.
        """
        x = self.embedding(tokens)
        return x, torch.zeros_like(x, dtype=dtype_of_products(x), requires_grad=x.requires_grad)
