"""The charts of TensorBoard's tab "Custom scalars"."""

import re
from collections.abc import Collection

# category -> title of a chart -> pattern of the tags that are its lines, which matches from their first character on
CHARTS = {
    "Learning": {
        "loss (nats)": r"(train|val)/loss$",
        "validation accuracy": r"val/accuracy$",
        "auxiliary terms of the loss": r"train/(?!(loss|learning_rate|gradient_norm|tokens)$)",
        "learning rate": r"train/learning_rate$",
        "gradient norm before clipping": r"train/gradient_norm$",
    },
    "Length generalization": {
        "scaled accuracy at each length": r"length/\d+$",
        "scaled accuracy on the test lengths": r"length/(test|selection)$",
        "share of sequences that are right up to a position": r"sequence_accuracy/",
        "share of labels that are right at a position": r"label_accuracy/",
    },
    "Text": {
        "validation perplexity": r"val/perplexity$",
    },
    "Eigenvalues": {
        "least eigenvalue": r"eigenvalues/least$",
        "shares that are negative, and complex": r"eigenvalues/share_",
        "mean distance of the absolute value from 1": r"eigenvalues/distance_from_1$",
        "horizon (tokens)": r"eigenvalues/horizon$",
    },
    "Speed": {
        "tokens per second of one device": r"speed/tokens_per_second$",
        "MFU, and share of the time spent waiting for data": r"speed/share_",
        "memory (GiB)": r"speed/memory_gib$",
        "tokens learned from": r"train/tokens$",
    },
}

Layout = dict[str, dict[str, str]]


def layout(tags: Collection[str]) -> Layout:
    """Return the charts that show at least one of the tags, by category.

    A run without a chart's values would show it as an empty card. TensorBoard merges the layouts of runs that it shows
    together, chart by chart, so a chart is the same for all runs.
    """
    shown = {
        category: {title: tag for title, tag in charts.items() if any(re.match(tag, one) for one in tags)}
        for category, charts in CHARTS.items()
    }
    return {category: charts for category, charts in shown.items() if charts}
