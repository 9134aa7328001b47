"""The sLSTM: a scalar memory with an exponential input gate and a recurrence through its output (Beck et al. 2024).

    i~, f~, z~, o~ = x_t + R h_{t-1}
    c_t = sigmoid(f~) c_{t-1} + exp(i~) tanh(z~)        n_t = sigmoid(f~) n_{t-1} + exp(i~)
    h_t = sigmoid(o~) c_t / n_t

Glossary, one head: h, c, n and each gate are of size D; R mixes the outputs of a head and depends on no token. Since
the gates depend on h_{t-1}, the recurrence is not linear: no eigenvalues describe its state transition, and it can't be
computed in parallel over time. Forms (lrnn/ops/common/form.py): `recurrent`, a loop over tokens, and `triton`, kernels
that run this loop on the chip, for heads of up to 64 (kernels.py).

Stabiliser: with m_t = max(log sigmoid(f~) + m_{t-1}, i~), c and n are held as multiples of exp(m); then n is at least
1. The outputs don't depend on m, so no gradient goes through it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrnn.ops.common.cards import Card, card_of
from lrnn.ops.common.form import Form, Kernel, choose_form

KERNEL = Kernel("triton", "lrnn.ops.slstm.operators")
SHARED_OF_64 = 139_264  # bytes of shared memory that a head of 64 needs (`make kernels`)
SLSTMState = tuple[Tensor, Tensor, Tensor, Tensor]  # h, c, n, m, all (B, H, D)


def slstm(
    x: Tensor, R: Tensor, initial_state: SLSTMState | None = None, *, form: Form = "auto"
) -> tuple[Tensor, SLSTMState]:
    """Run the sLSTM over T tokens.

    Args:
        x: share of the tokens in i~, f~, z~, o~, in this order, (B, T, H, 4, D).
        R: recurrent weights, (H, D, 4 D).
        initial_state: h, c, n, m; an empty memory when absent.
        form: `auto`, `recurrent`, `chunked` (the same code here) or `triton`.

    Returns:
        outputs h (B, T, H, D) in the dtype of `x`, and the final state, held in float32 (float64 when the inputs are).

    Raises:
        ValueError: shapes do not fit together, or T is 0.
    """
    if x.ndim != 5 or x.shape[3] != 4 or R.shape != (x.shape[2], x.shape[4], 4 * x.shape[4]):
        raise ValueError(f"slstm: x, R must be (B, T, H, 4, D), (H, D, 4 D); got {tuple(x.shape)}, {tuple(R.shape)}")
    B, T, H, _, D = x.shape
    if initial_state is not None and len(initial_state) != 4:
        raise ValueError(f"slstm: the initial state must be h, c, n, m, got {len(initial_state)} tensors")
    for name, tensor in zip("hcnm", initial_state or (), strict=False):
        if tensor.shape != (B, H, D):
            raise ValueError(f"slstm: {name} of the initial state must be {(B, H, D)}, got {tuple(tensor.shape)}")
    if T == 0:
        raise ValueError("slstm: the sequence must hold at least one token")
    tensors, obstacle = [x, R, *(initial_state or ())], obstacle_of(D, card_of(x.device))
    if choose_form("slstm", form, tensors, pytorch=("recurrent",), kernel=KERNEL, obstacle=obstacle) == "triton":
        from lrnn.ops.slstm.operators import slstm_op

        start = None if initial_state is None else torch.stack(initial_state)
        y, end = slstm_op(x, R, start, torch.is_grad_enabled())[:2]
        h, c, n, m = end.unbind()
        return y, (h, c, n, m.detach())
    dtype = torch.promote_types(x.dtype, torch.float32)
    out_dtype, x, R = x.dtype, x.to(dtype).permute(1, 2, 0, 3, 4).flatten(3), R.to(dtype)  # x (T, H, B, 4 D)
    if initial_state is None:
        empty = x.new_zeros(B, H, D)
        initial_state = empty, empty, empty, torch.full_like(empty, -torch.inf)
    h, c, n, m = (state.to(dtype).transpose(0, 1) for state in initial_state)  # (H, B, D): R differs between heads
    outputs = []
    with torch.autocast(x.device.type, enabled=False):  # the state stays in float32
        for x_t in x:
            i, f, z, o = torch.baddbmm(x_t, h, R).chunk(4, dim=-1)
            log_f = F.logsigmoid(f) + m
            m = torch.maximum(log_f, i).detach()
            keep, write = torch.exp(log_f - m), torch.exp(i - m)
            c = keep * c + write * torch.tanh(z)
            n = keep * n + write
            h = torch.sigmoid(o) * c / n
            outputs.append(h)
    h, c, n, m = (state.transpose(0, 1) for state in (h, c, n, m))
    return torch.stack(outputs).permute(2, 0, 1, 3).to(out_dtype), (h, c, n, m)


def obstacle_of(D: int, card: Card) -> str | None:
    """Return why the kernels can't run heads of D on a card, if they can't: the recurrent weights stay on the chip."""
    if card.races:
        return "this GPU before Triton 3.8, which lets warps race on it"
    largest = 64 if card.shared >= SHARED_OF_64 else 32
    return f"heads above {largest} on this GPU" if largest < D else None
