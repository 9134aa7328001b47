"""The figure of perplexity against length, as Figure 5 of the paper."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from lrnn.evaluate.perplexity_scoring import Perplexities


def perplexity_figure(
    texts: Mapping[str, Mapping[str, Perplexities]], contexts: Mapping[str, int | None] | None = None
) -> Figure:
    """Draw a panel for each text and a colour for each model.

    The solid line is the perplexity of all tokens up to a length, the dashed one that of the tokens after the length
    before.

    Args:
        texts: for each text the perplexities of each model, by the model's name.
        contexts: longest training sequence of each model in tokens; a dotted line marks it.
    """
    figure = Figure(figsize=(4.5 * len(texts) + 1.5, 4), layout="constrained")
    names = list(dict.fromkeys(name for models in texts.values() for name in models))
    for axes, (text, models) in zip(figure.subplots(1, len(texts), squeeze=False)[0], texts.items(), strict=True):
        for context in {context for name, context in (contexts or {}).items() if context and name in models}:
            axes.axvline(context, color="0.4", linestyle=":", label=f"training context {context:,}")
        for name, found in models.items():
            color = f"C{names.index(name)}"
            axes.plot(found.running_at.keys(), found.running_at.values(), color=color, linewidth=2, label=name)
            axes.plot(found.position_at.keys(), found.position_at.values(), "--", color=color, linewidth=0.8)
        lengths = sorted({n for found in models.values() for n in found.running_at})
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{n:,}" for n in lengths], rotation=60, fontsize="small")
        axes.set(title=text, xlabel="tokens", ylabel="perplexity up to (dashed: at) this length")
        axes.legend(fontsize="small")
    return figure
