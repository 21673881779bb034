"""The figure of the detector's study: accuracy against the number of pairs."""

from matplotlib.figure import Figure

from srdef.detection.study import Study
from srdef.reporting import labels, style

# The accuracy that the paper gives for 10,000 pairs (section 4.1), in percent.
PAPER = 99.6


def study_figure(study: Study, title: str) -> Figure:
    """Accuracy on the test pairs against the number of pairs trained on, a line for each number of blocks."""
    counts = sorted({setting.pairs for setting in study.settings})
    with style.styled():
        figure = style.new_figure(style.COLUMN, 3.2)
        axes = figure.subplots()
        axes.set_title(labels.drawn(title))
        for index, blocks in enumerate(dict.fromkeys(setting.blocks for setting in study.settings)):
            row = [setting for setting in study.settings if setting.blocks == blocks]
            colour, marker = style.CYCLE[index % len(style.CYCLE)], "os^Dvp"[index % 6]
            x = [setting.pairs for setting in row]
            low = [100 * setting.accuracy.low for setting in row]
            high = [100 * setting.accuracy.high for setting in row]
            axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
            label = f"{blocks} block{'s' if blocks > 1 else ''}" if blocks else "head alone"
            values = [100 * setting.accuracy.value for setting in row]
            axes.plot(x, values, color=colour, marker=marker, markersize=3.5, label=label)
        axes.axhline(PAPER, color=style.GREY, linestyle="--", linewidth=1, label="the paper")
        axes.axhline(50, color=style.GREY, linestyle=":", linewidth=1, label="a coin")
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        lowest = min(100 * setting.accuracy.low for setting in study.settings)
        axes.set(
            xlabel="pairs trained on",
            ylabel="mean accuracy over\nthe images of test pairs (%)",
            ylim=(min(50, lowest) - 5, 101),
        )
        axes.grid(alpha=0.25, linewidth=0.5)
        figure.legend(loc="outside lower center", ncols=3)
    return figure
