"""Continue prompts of different lengths side by side, token by token.

tokens = continue_prompts(model, [[5, 6], [7]], 10, Sampling(temperature=0.8, seed=3))
"""

from lrnn.models.decoding.batch import NonFiniteLogitsError, Precision
from lrnn.models.decoding.continuation import continue_prompts
from lrnn.models.decoding.prompts import read_prompts, select_rows
from lrnn.models.decoding.round_products import round_products
from lrnn.models.decoding.sampling import GREEDY, Sampling

__all__ = [
    "GREEDY",
    "NonFiniteLogitsError",
    "Precision",
    "Sampling",
    "continue_prompts",
    "read_prompts",
    "round_products",
    "select_rows",
]
