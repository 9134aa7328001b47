"""Our models in lm-evaluation-harness. Importing this file needs the harness: pip install -e '.[evaluate]'

lm_eval.simple_evaluate(model=Adapter(model, tokenizer), tasks=["piqa"])
"""

from lm_eval.api.model import LM

from lrnn.evaluate.requests import Requests


class Adapter(Requests, LM):
    """A model of the harness that answers all three kinds of request."""
