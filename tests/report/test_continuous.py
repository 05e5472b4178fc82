"""Pictures show continuous data as what they are, in the units of the data."""

import numpy as np
import pytest
from PIL import Image

from score_sde.quantization import CONTINUOUS
from score_sde.report import continuous, plots

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dim", [1, 3, 14])
def test_a_table_is_drawn_as_the_marginals_of_its_first_columns(dim):
    scales = 10.0 ** np.linspace(-3, 4, dim)
    data, samples = (scales * (RNG.standard_normal((400, dim)) + 50.0) for _ in range(2))
    figure = continuous.marginals(samples, data)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == min(dim, continuous.MAX_COLUMNS)
    for column, axes in enumerate(panels):
        bars = [patch for patch in axes.patches if hasattr(patch, "get_height")]
        assert sum(bar.get_height() * bar.get_width() for bar in bars) == pytest.approx(1.0)  # a density
        low, high = axes.get_xlim()
        assert np.mean((data[:, column] > low) & (data[:, column] < high)) > 0.99


def test_series_are_drawn_as_curves_channel_by_channel():
    data, samples = RNG.standard_normal((2, 30, 9, 2)) * [1.0, 500.0] + [0.0, 1e4]
    axes = continuous.curves(samples, data).axes
    assert len(axes) == 4  # a row per channel: data, samples
    for place, panel in enumerate(axes):
        channel, column = divmod(place, 2)
        values = (data, samples)[column][: continuous.MAX_CURVES, :, channel]
        np.testing.assert_array_equal([line.get_ydata() for line in panel.lines], values)
        low, high = panel.get_ylim()
        assert np.mean((values > low) & (values < high)) > 0.99


def test_volumes_are_drawn_as_slices_a_row_each(tmp_path):
    depth = np.arange(4.0)[None, :, None, None, None] * np.ones((3, 1, 2, 2, 1))
    continuous.show(depth - 7.0, None, tmp_path / "volume.png")
    pixels = np.asarray(Image.open(tmp_path / "volume.png").convert("L"))
    step = plots.GRID_TILE + plots.GAP
    assert pixels.shape == (3 * step + plots.GAP, 4 * step + plots.GAP)
    middles = pixels[plots.GAP + plots.GRID_TILE // 2 :: step, plots.GAP + plots.GRID_TILE // 2 :: step]
    assert middles[:, 0].max() == 0 and middles[:, -1].min() == 255 and (np.diff(middles.astype(int), axis=1) > 0).all()


@pytest.mark.parametrize("shape", [(1,), (6, 7), (4, 5, 2), (3, 4, 5, 3)], ids=str)
def test_every_shape_has_pictures_with_data_and_without(tmp_path, shape):
    values = RNG.standard_normal((3, *shape))
    continuous.show(values, np.zeros_like(values), tmp_path / "beside.png")
    continuous.show(np.zeros((1, *shape)), None, tmp_path / "alone.png")
    states = np.stack([10.0 * values, values])
    plots.trajectory_strip(states, np.array([1.0, 0.01]), tmp_path / "strip.png", quantization=CONTINUOUS)
    assert all(min(np.asarray(Image.open(picture)).shape[:2]) > 40 for picture in tmp_path.iterdir())


def test_two_columns_in_units_of_their_own_fill_the_picture(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: saved.append(figure) or path)
    points = RNG.standard_normal((500, 2)) * [1.0, 1e-3] + [1000.0, 0.0]
    plots.scatter(points, None, tmp_path / "scatter.png")
    (axes,) = saved[0].axes
    for column, (low, high) in enumerate((axes.get_xlim(), axes.get_ylim())):
        assert 1.0 < (high - low) / np.ptp(points[:, column]) < 1.2 or np.ptp(points[:, column]) > high - low
        assert np.mean((points[:, column] > low) & (points[:, column] < high)) > 0.98
