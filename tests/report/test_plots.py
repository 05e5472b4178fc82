"""Pictures show the numbers they were given."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from score_sde.errors import UserError
from score_sde.quantization import Quantization
from score_sde.report import measured, plots

RNG = np.random.default_rng(0)


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def _tiles(canvas, rows, columns, height, width, scale):
    """Undo the grid: every pixel of every tile, or a failure if a block is not uniform."""
    found = []
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        top = plots.GAP + row * (height * scale + plots.GAP)
        left = plots.GAP + column * (width * scale + plots.GAP)
        tile = canvas[top : top + height * scale, left : left + width * scale]
        small = tile[::scale, ::scale]
        assert (small.repeat(scale, 0).repeat(scale, 1) == tile).all()
        found.append(small)
    return np.stack(found)


@pytest.mark.parametrize(
    ("height", "width", "channels", "num_grey_levels", "scale"),
    [(8, 8, 1, 17, 5), (6, 9, 3, 256, 7), (64, 48, 3, 2, 1)],
)
def test_the_levels_can_be_read_off_the_grid(tmp_path, height, width, channels, num_grey_levels, scale):
    levels = RNG.integers(num_grey_levels, size=(7, height, width, channels))
    path = plots.image_grid(levels, tmp_path / "new" / "grid.png", num_grey_levels=num_grey_levels, columns=3)
    canvas = _pixels(path)
    assert canvas.shape[0] == 3 * (height * scale + plots.GAP) + plots.GAP
    tiles = _tiles(canvas, 3, 3, height, width, scale)
    read = np.rint(tiles * (num_grey_levels - 1) / 255)
    np.testing.assert_array_equal(read[:7], np.broadcast_to(levels, (7, height, width, 3)))
    assert (tiles[7:] == 255).all()  # what is left of the last row stays white
    assert min(height, width) * scale >= plots.GRID_TILE
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]  # no temporary file is left


def test_a_strip_has_a_column_per_frame_and_a_row_per_sample(tmp_path):
    frames, n = 5, 3
    levels = RNG.integers(17, size=(n, 8, 8, 1))
    quantization = Quantization(num_grey_levels=17)
    clean = 2.0 * (levels + 0.5) / 17 - 1.0
    noise = np.array([50.0, 10.0, 1.0, 0.1, 0.0]).reshape(-1, 1, 1, 1, 1)
    states = clean + noise * RNG.standard_normal((frames, *clean.shape))
    times = np.array([1.0, 0.8, 0.5, 0.3, 1e-5])
    canvas = _pixels(plots.trajectory_strip(states, times, tmp_path / "strip.png", quantization=quantization))
    side = 64
    rows, columns = (k * (side + plots.GAP) + plots.GAP for k in (n, frames))
    left = (canvas.shape[1] - columns) // 2
    body = canvas[-16 - rows : -16, left : left + columns]
    tiles = _tiles(body, n, frames, 8, 8, 8).reshape(n, frames, 8, 8, 3)
    # The last frame is on the scale of the data; noise of std 50 is scaled down, not clipped to black and white.
    np.testing.assert_array_equal(np.floor(tiles[:, -1, :, :, :1] / 255 * 17).clip(0, 16), levels)
    assert ((tiles[:, 0] > 0) & (tiles[:, 0] < 255)).mean() > 0.95
    header = canvas[: -16 - rows]
    for column in range(frames):  # a label above every column
        x = left + plots.GAP + column * (side + plots.GAP)
        assert header[35:, x : x + side].min() < 128


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_strip_of_vectors_has_a_panel_per_frame(tmp_path, dim):
    states = RNG.standard_normal((4, 50, dim)) * np.array([50.0, 10.0, 1.0, 1.0]).reshape(-1, 1, 1)
    figure = plots._scatter_strip(states, np.linspace(1, 0, 4))
    assert len(figure.axes) == 4
    for axes, frame in zip(figure.axes, states, strict=True):
        shown = np.asarray(axes.collections[0].get_offsets())
        np.testing.assert_array_equal(shown[:, : min(dim, 2)], frame[:, :2])
        inside = np.abs(shown[:, 0]) < axes.get_xlim()[1]
        assert inside.mean() > 0.9 and axes.get_xlim()[1] < 1.5 * np.abs(frame).max()
    path = plots.trajectory_strip(
        states, np.linspace(1, 0, 4), tmp_path / "s.png", quantization=Quantization(num_grey_levels=None)
    )
    assert _pixels(path).std() > 0


def _drawn(chart):
    axes = Figure().subplots()
    chart.draw(axes, *chart.drawn)
    return axes


def test_the_loss_curve_shows_losses_and_evaluations():
    records = [
        {"step": s, "loss": 1.0 / s} | ({"eval_loss": 2.0 / s} if s % 20 == 0 else {}) for s in range(10, 101, 10)
    ]
    axes = _drawn(measured.loss_chart([*records, {"step": 110, "loss": float("nan")}]))
    training, held_out = axes.lines
    np.testing.assert_allclose(training.get_xydata(), [(s, 1 / s) for s in range(10, 101, 10)])
    np.testing.assert_allclose(held_out.get_xydata(), [(s, 2 / s) for s in range(20, 101, 20)])
    assert axes.get_yscale() == "log" and axes.get_xlabel() == "step"


def test_a_negative_loss_is_drawn_on_a_linear_scale():
    assert _drawn(measured.loss_chart([{"step": s, "loss": 1.0 - s} for s in range(5)])).get_yscale() == "linear"


@pytest.mark.parametrize("content", [None, "", "no line of these\n", '{"step": 1, "loss": null}\n'])
def test_without_losses_nothing_is_drawn_and_this_is_said(tmp_path, caplog, content):
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "loss.png"
    if content is not None:
        metrics.write_text(content)
    assert measured.loss_curve(metrics, picture) is None and not picture.exists()
    assert [record.getMessage() for record in caplog.records if record.name == measured.__name__] == [
        f"There is no loss in {metrics}, and {picture} is not drawn."
    ]


LEVELS = {"log_snr": [3.0, 0.0, -3.0], "bits": [1.0, 2.0], "uniform_std": [1.0, 2.0], "importance_std": [1.0, 1.0]}


def test_figures_are_written_and_replace_older_ones(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo', encoding="utf-8")
    (tmp_path / "loss.png").write_bytes(b"old")
    measured.loss_curve(tmp_path / "m.jsonl", tmp_path / "loss.png")
    plots.scatter(RNG.standard_normal((300, 2)), RNG.standard_normal((500, 2)), tmp_path / "scatter.png")
    report = {"bits_per_dim": 2.5, "std_error": 0.1, "interval": [2.3, 2.7], "baseline": {"bits_per_dim": 2.6},
              "bound_bits_per_dim": 2.6, "noise_levels": LEVELS}  # fmt: skip
    arrays = {"bits_per_dim": np.append(RNG.gamma(5, 0.5, 99), np.inf), "chain_level_bits": np.ones(4)}
    arrays |= {"chain_rate": np.arange(5.0), "chain_distortion": np.arange(5.0)[::-1]}
    measured.draw_likelihood(tmp_path, report, arrays)
    names = {"loss.png", "scatter.png", "likelihood.png", "bounds.png", "noise_levels.png", "rate_distortion.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == names
    for name in names:
        canvas = _pixels(tmp_path / name)
        assert canvas.shape[1] > 600 and canvas.std() > 5


def test_a_picture_that_cannot_be_written_is_the_users_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write .*grid.png"):
        plots.image_grid(np.zeros((1, 8, 8, 1), int), tmp_path / "file" / "grid.png", num_grey_levels=17)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, score_sde.training.writers, score_sde.evaluation.baseline; "
        "from score_sde.report import page, plots, summary; "
        "print([m for m in ('matplotlib', 'sklearn', 'PIL', 'tensorboardX', 'tqdm') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_pictures_of_one_example_leave_out_what_it_does_not_tell(tmp_path):
    """One example has no spread and no interval: no scale is logarithmic for them, and no word is of nan."""
    report = {"bits_per_dim": 2.5, "std_error": np.nan, "interval": (np.nan, np.nan), "bound_bits_per_dim": 2.6}
    levels = LEVELS | {"uniform_std": np.zeros(2), "importance_std": np.array([0.0, np.nan])}
    measured.draw_likelihood(tmp_path, report | {"noise_levels": levels}, {"bits_per_dim": np.array([2.5])})
    assert {path.name for path in tmp_path.iterdir()} == {"bounds.png", "noise_levels.png"}
    points = [{"setting": {"solver": "ddim"}, "num_evals": 5, "distance": -0.1}]
    for chart in (measured.pareto_chart({"points": points, "references": points}), *measured._bounds(report, {})):
        words = [text.get_text() for text in _drawn(chart).findobj(Text)]
        assert not [word for word in words if "nan" in word or "1 images" in word or "1 points" in word], words
    plots.scatter(np.zeros((1, 2)), None, tmp_path / "scatter.png")
