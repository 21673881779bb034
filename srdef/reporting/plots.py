"""The figures of the paper, drawn from arrays; `srdef.reporting.figures` computes the arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import mpl_toolkits.mplot3d  # noqa: F401 (registers the projection "3d")
import numpy as np
from matplotlib.figure import Figure

from srdef.reporting import labels, style


@dataclass(frozen=True)
class PointSet:
    """Points of one kind in a scatter plot: their name, colour and coordinates `(N, 3)`."""

    name: str
    colour: str
    points: np.ndarray


@dataclass(frozen=True)
class View:
    """One image as a figure shows it, with what the classifier says of it."""

    name: str
    image: np.ndarray
    prediction: str
    correct: bool

    @property
    def verdict(self) -> str:
        """A mark and the predicted class."""
        return f"{'✓' if self.correct else '✗'} {labels.drawn(style.shorten(self.prediction, 22))}"

    @property
    def colour(self) -> str:
        """Green for a correct answer, vermilion for a wrong one."""
        return style.CORRECT if self.correct else style.WRONG


def axis_labels(ratios: Sequence[float]) -> list[str]:
    """What the axes of principal components are called, with their shares of the variance."""
    return [f"component {i + 1} ({100 * ratio:.0f} %)" for i, ratio in enumerate(ratios)]


def scatter_3d(panels: Mapping[str, Sequence[PointSet]], ratios: Sequence[float], title: str) -> Figure:
    """Figure 1: points on the first three principal components, one panel beside the other.

    Parameters
    ----------
    panels : mapping of title to sets of points
        All panels get the same axes.
    ratios : three floats
        Explained variance of each component, as a share.
    title : str
    """
    everything = np.concatenate([points.points for sets in panels.values() for points in sets])
    low, high = everything.min(axis=0), everything.max(axis=0)
    with style.styled():
        figure = style.new_figure(style.PAGE, 3.4)
        figure.suptitle(labels.drawn(title), fontsize=9)
        for i, (name, sets) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), i + 1, projection="3d")
            for points in sets:
                axes.scatter(
                    *points.points.T,
                    label=labels.drawn(points.name),
                    color=points.colour,
                    marker=style.MARKERS[points.colour],
                    s=18,
                    alpha=0.8,
                    linewidths=0,
                    depthshade=False,
                )
            for letter, label in zip("xyz", axis_labels(ratios), strict=True):
                getattr(axes, f"set_{letter}label")(label, labelpad=-6)
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
            axes.tick_params(labelsize=6, pad=-2)
            axes.set_title(labels.drawn(name))
            axes.view_init(elev=22, azim=-60)
            axes.set_box_aspect(None, zoom=1.0)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=len(sets), handletextpad=0.1)
    return figure


def spectrum_figure(
    views: Sequence[View],
    spectra: Sequence[np.ndarray],
    high_passes: Sequence[np.ndarray],
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    cutoff: float,
    title: str,
) -> Figure:
    """Figure 3: images, their DCT spectra and high-pass images, and the spectra's radial averages.

    Parameters
    ----------
    views : clean, adversarial and recovered
    spectra : arrays (H, W)
        log10 of the magnitude of the DCT of luma, in levels of 255, divided by how many times larger the
        image is than the clean one: one scale for all.
    high_passes : arrays (H, W, 3)
        Around 0, in units of [0, 1].
    curves : mapping of name to (frequency, log10 of the mean magnitude)
    cutoff : float
        Of the high-pass filter, as a share of the clean image's Nyquist frequency.
    """
    colours = (style.CLEAN, style.ADVERSARIAL, style.DEFENDED)
    low, high = -2.0, 4.0  # powers of ten; one scale for all three
    gain = 3.0
    with style.styled():
        figure = style.new_figure(style.PAGE, 8.6)
        figure.suptitle(labels.drawn(title), fontsize=9)
        grid = figure.add_gridspec(4, 4, width_ratios=[1, 1, 1, 0.05], height_ratios=[1, 1, 1, 0.7])
        for j, view in enumerate(views):
            axes = figure.add_subplot(grid[0, j])
            style.show_image(axes, view.image)
            axes.set_title(labels.drawn(f"{view.name}\n{view.image.shape[0]} pixels"))
            axes.set_xlabel(view.verdict, color=view.colour)
            axes = figure.add_subplot(grid[1, j])
            scale = style.show_image(axes, spectra[j], cmap=style.SEQUENTIAL, vmin=low, vmax=high)
            axes.set_xlabel("horizontal frequency →")
            inside = views[0].image.shape[0] / view.image.shape[0]
            if inside < 1:  # where the clean image's spectrum ends
                end = inside * view.image.shape[0] - 0.5
                axes.plot([-0.5, end, end], [end, end, -0.5], color="white", lw=0.7)
            if j == 0:
                axes.set_ylabel("DCT magnitude\n← vertical frequency")
            axes = figure.add_subplot(grid[2, j])
            style.show_image(axes, 0.5 + gain * np.asarray(high_passes[j]))
            if j == 0:
                axes.set_ylabel(f"high-pass image ×{gain:g}\nabove {cutoff:g} of Nyquist")
        bar = figure.colorbar(scale, cax=figure.add_subplot(grid[1, 3]))
        bar.set_label("magnitude ÷ enlargement (levels of 255)")
        bar.set_ticks(ticks=range(-2, 5), labels=["0.01", "0.1", "1", "10", "100", "1000", "10⁴"])
        axes = figure.add_subplot(grid[3, :3])
        for (name, (frequency, amplitude)), colour, line in zip(
            curves.items(), colours, style.LINES, strict=False
        ):
            axes.plot(frequency, 10**amplitude, color=colour, linestyle=line, label=labels.drawn(name))
        axes.set(
            xlabel="frequency, cycles per pixel of the clean image",
            ylabel="mean DCT magnitude\n÷ enlargement",
            yscale="log",
        )
        axes.axvline(0.5, color=style.GREY, lw=0.6)
        axes.text(0.505, 0.93, "highest of the clean image", transform=axes.get_xaxis_transform(), fontsize=7)
        axes.legend()
    return figure


def feature_map_figure(
    views: Sequence[View], rows: Mapping[str, Sequence[np.ndarray]], changes: Sequence[float], title: str
) -> Figure:
    """Figure 4: maps of one block for the clean, the adversarial and the recovered image.

    Parameters
    ----------
    views : clean, adversarial and recovered
    rows : mapping of title to one map (h, w) a view
        Every row has one colour scale.
    changes : sequence of float
        For each view how far its maps are from the clean ones, relative to these; nan for none.
    """
    with style.styled():
        figure = style.new_figure(style.PAGE * 0.82, 1.75 * (len(rows) + 1) + 0.5)
        figure.suptitle(labels.drawn(title), fontsize=9)
        grid = figure.add_gridspec(len(rows) + 1, 4, width_ratios=[1, 1, 1, 0.05])
        for j, (view, change) in enumerate(zip(views, changes, strict=True)):
            axes = figure.add_subplot(grid[0, j])
            style.show_image(axes, view.image)
            distance = "" if np.isnan(change) else f"\nchange of the block: {100 * change:.0f} %"
            axes.set_title(labels.drawn(f"{view.name}{distance}"))
            axes.set_xlabel(view.verdict, color=view.colour)
        for i, (name, maps) in enumerate(rows.items(), start=1):
            low, high = min(m.min() for m in maps), max(m.max() for m in maps)
            for j, values in enumerate(maps):
                axes = figure.add_subplot(grid[i, j])
                scale = style.show_image(axes, values, cmap=style.SEQUENTIAL, vmin=low, vmax=high)
                if j == 0:
                    axes.set_ylabel(name)
            figure.colorbar(scale, cax=figure.add_subplot(grid[i, 3]))
    return figure


def overlay(image: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """An image `(H, W, 3)` in grey with its activation map `(H, W)` over it, both in [0, 1]."""
    colours = matplotlib.colormaps["inferno"](activation)[..., :3]
    grey = image.mean(axis=-1, keepdims=True)
    return 0.45 * grey + 0.55 * colours


def activation_figure(
    columns: Sequence[Sequence[View]],
    perturbations: Sequence[np.ndarray],
    differences: Sequence[np.ndarray],
    gains: tuple[float, float],
    title: str,
) -> Figure:
    """Figures 5 and 6: activation maps of clean, adversarial and recovered images, and the differences.

    Parameters
    ----------
    columns : one list of views an image
        The clean image, then the three activation maps with the classifier's answers.
    perturbations, differences : arrays (H, W, 3) of each image
        Adversarial minus clean, and recovered minus (enlarged) clean.
    gains : two floats
        By what these are multiplied to be seen.
    """
    rows = [view.name for view in columns[0]]
    rows += [f"perturbation ×{gains[0]:g}", f"recovered − clean ×{gains[1]:g}"]
    with style.styled():
        figure = style.new_figure(style.PAGE, 0.4 + 1.82 * len(rows) * style.PAGE / (1.9 * len(columns)))
        figure.suptitle(labels.drawn(title), fontsize=9)
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for j, views in enumerate(columns):
            changes = (0.5 + gains[0] * perturbations[j], 0.5 + gains[1] * differences[j])
            for i, image in enumerate([*(view.image for view in views), *changes]):
                axes = grid[i, j]
                style.show_image(axes, image)
                if j == 0:
                    axes.set_ylabel(labels.drawn(rows[i]))
                if i < len(views):
                    axes.set_xlabel(views[i].verdict, color=views[i].colour, fontsize=7)
    return figure


def residual_figure(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], title: str) -> Figure:
    """Amplitude over frequency, one panel beside the other with the same axes.

    Parameters
    ----------
    panels : mapping of title to curves by name
        Of (cycles per pixel, amplitude in units of [0, 1]).
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    curves = [amplitude for panel in panels.values() for _, amplitude in panel.values()]
    # A defense has one colour in all panels.
    every = dict.fromkeys(label for panel in reversed(list(panels.values())) for label in panel)
    order = {label: i for i, label in enumerate(every)}
    shared = list(panels.values())[-1]  # the panels of the defenses: one legend serves them all
    high = 255 * max(np.nanmax(curve) for curve in curves)
    with style.styled():
        figure = style.new_figure(style.PAGE, 0.5 + 2.3 * rows)
        figure.suptitle(labels.drawn(title), fontsize=9)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, (name, panel) in zip(grid, panels.items(), strict=False):
            for label, (frequency, amplitude) in panel.items():
                i = order[label]
                axes.plot(
                    frequency,
                    255 * amplitude,
                    label=labels.drawn(label),
                    color=style.CYCLE[i % len(style.CYCLE)],
                    linestyle=style.LINES[i % len(style.LINES)],
                )
            axes.set_title(labels.drawn(name))
            axes.set_yscale("log")
            axes.axvline(0.5, color=style.GREY, lw=0.5)
            if not panel.keys() <= shared.keys():
                axes.legend(fontsize=6.5, loc="upper right")
        handles = {line.get_label(): line for axes in grid for line in axes.get_lines()}
        words = [labels.drawn(label) for label in shared]
        figure.legend(
            [handles[label] for label in words], words, loc="outside lower center", ncols=len(shared)
        )
        grid[0].set_ylim(high * 3e-4, high * 2)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[max(0, len(panels) - columns) : len(panels)]:
            axes.set_xlabel("cycles per pixel of the clean image")
            axes.tick_params(labelbottom=True)
        for axes in grid[::columns]:
            axes.set_ylabel("amplitude (levels of 255)")
    return figure


def training_figure(records: Sequence[Mapping[str, float]], title: str) -> Figure:
    """Loss and accuracy of the manifold classifier over the steps of its training."""
    steps, lowest = [record["step"] for record in records], 50.0
    with style.styled():
        figure = style.new_figure(style.PAGE, 2.6)
        figure.suptitle(labels.drawn(title), fontsize=9)
        left, right = figure.subplots(1, 2)
        left.plot(steps, [record["loss"] for record in records], color=style.GREY)
        left.set(xlabel="step", ylabel="training loss (binary cross-entropy)", ylim=(0, None))
        for name, words, colour, line in (
            ("train", "images trained on", style.CLEAN, "-"),
            ("test", "other images", style.ADVERSARIAL, "--"),
        ):
            values = [100 * record[f"{name}_accuracy"] for record in records]
            lowest = min(lowest, *values)
            right.plot(steps, values, color=colour, linestyle=line, label=words)
        right.set(xlabel="step", ylabel="mean accuracy over\nthe images of pairs (%)", ylim=(lowest - 2, 101))
        right.legend(loc="lower right")
    return figure
