"""The names of NCSN weights in PyTorch: each has a place in the Flax tree, each place is taken, and by its like."""

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from score_sde.errors import UserError
from score_sde.interop.ncsn_names import flax_names, torch_to_flax
from score_sde.models.ncsn import NCSN, NCSNv2

WIDTH, LEVELS = 4, 10

# The PyTorch modules by name: (stage, width, dilation) down and (refinement, width) up.
BACKBONES = {
    64: (("1", 1, 1), ("2", 2, 1), ("3", 2, 2), ("4", 2, 4)),
    128: (("1", 1, 1), ("2", 2, 1), ("3", 2, 1), ("4", 4, 2), ("5", 4, 4)),
    256: (("1", 1, 1), ("2", 2, 1), ("3", 2, 1), ("31", 2, 1), ("4", 4, 2), ("5", 4, 4)),
}
REFINEMENTS = {
    64: (("1", 2), ("2", 2), ("3", 1), ("4", 1)),
    128: (("1", 4), ("2", 2), ("3", 2), ("4", 1), ("5", 1)),
    256: (("1", 4), ("2", 2), ("31", 2), ("3", 2), ("4", 1), ("5", 1)),
}


class StateDict(dict):
    """The names and shapes of the arrays that PyTorch stores."""

    def __init__(self, resolution, conditional):
        super().__init__()
        self.conditional = conditional
        if not conditional:
            self["sigmas"] = (LEVELS,)
        self.conv("begin_conv", 3, WIDTH)
        self.norm("normalizer", WIDTH)
        self.conv("end_conv", WIDTH, 3)
        widths = [WIDTH * multiplier for _, multiplier, _ in BACKBONES[resolution]]
        for i, (stage, _, dilation) in enumerate(BACKBONES[resolution]):
            self.residual(f"res{stage}.0", widths[max(i - 1, 0)], widths[i], i > 0, dilation)
            self.residual(f"res{stage}.1", widths[i], widths[i], False, dilation)
        coarse = []
        for i, (name, multiplier) in enumerate(REFINEMENTS[resolution]):
            last = i == len(widths) - 1
            self.refine(f"refine{name}", [widths[-1 - i], *coarse], WIDTH * multiplier, last)
            coarse = [WIDTH * multiplier]

    def conv(self, name, inputs, outputs, size=3, bias=True):
        self[f"{name}.weight"] = (outputs, inputs, size, size)
        if bias:
            self[f"{name}.bias"] = (outputs,)

    def norm(self, name, width):
        if self.conditional:
            self[f"{name}.embed.weight"] = (LEVELS, 3 * width)
        else:
            self.update({f"{name}.{array}": (width,) for array in ("alpha", "gamma", "beta")})

    def inner_norm(self, name, width):
        if self.conditional:
            self.norm(name, width)

    def residual(self, name, inputs, outputs, down, dilation):
        middle = inputs if down else outputs
        pooled = ".conv" if down and dilation == 1 else ""
        self.conv(f"{name}.conv1", inputs, middle)
        self.norm(f"{name}.normalize1", inputs)
        self.norm(f"{name}.normalize2", middle)
        self.conv(f"{name}.conv2{pooled}", middle, outputs)
        if down:
            self.conv(f"{name}.shortcut{pooled}", inputs, outputs, size=1 if pooled else 3)

    def refine(self, name, inputs, outputs, last):
        for i, width in enumerate(inputs):
            self.units(f"{name}.adapt_convs.{i}", width, 2)
            if len(inputs) > 1:
                self.conv(f"{name}.msf.convs.{i}", width, outputs)
                self.inner_norm(f"{name}.msf.norms.{i}", width)
        for i in range(2):
            self.conv(f"{name}.crp.convs.{i}", outputs, outputs, bias=False)
            self.inner_norm(f"{name}.crp.norms.{i}", outputs)
        self.units(f"{name}.output_convs", outputs, 3 if last else 1)

    def units(self, name, width, count):
        for i, j in ((i, j) for i in range(1, count + 1) for j in (1, 2)):
            self.conv(f"{name}.{i}_{j}_conv", width, width, bias=False)
            self.inner_norm(f"{name}.{i}_{j}_norm", width)


NETWORKS = {
    "NCSN": (64, NCSN(features=WIDTH, num_classes=LEVELS, pytorch=True)),
    "NCSNv2, 64": (64, NCSNv2(features=WIDTH, pytorch=True)),
    "NCSNv2, 128": (128, NCSNv2(features=WIDTH, resolution=128, pytorch=True)),
    "NCSNv2, 256": (256, NCSNv2(features=WIDTH, resolution=256, pytorch=True)),
}


@pytest.mark.sweep
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_places_correspond_one_to_one_with_equal_shapes(name, prefix):
    resolution, module = NETWORKS[name]
    state = {prefix + key: shape for key, shape in StateDict(resolution, name == "NCSN").items()}
    names = flax_names(state)
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros(1)))["params"]
    ours = {"/".join(path): leaf.shape for path, leaf in flatten_dict(tree).items()}
    theirs = {
        names[key]: shape if len(shape) < 4 else (*shape[2:], shape[1], shape[0])
        for key, shape in state.items()
        if names[key] is not None
    }
    assert theirs == ours
    assert [key for key in state if names[key] is None] == ([] if name == "NCSN" else [f"{prefix}sigmas"])
    assert len({place for place in names.values() if place}) == len(ours)  # no two names share a place


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("begin_conv.weight", "Conv_0/kernel"),
        ("normalizer.alpha", "InstanceNorm2dPlus_0/alpha"),
        ("res2.0.conv2.conv.weight", "ResidualBlock_2/ConvMeanPool_0/Conv_0/kernel"),
        ("res2.0.shortcut.conv.bias", "ResidualBlock_2/ConvMeanPool_1/Conv_0/bias"),
        ("res3.0.shortcut.weight", "ResidualBlock_4/Conv_2/kernel"),
        ("res4.1.normalize2.gamma", "ResidualBlock_7/InstanceNorm2dPlus_1/gamma"),
        ("refine1.output_convs.1_1_conv.weight", "RefineBlock_0/RCUBlock_1/Conv_0/kernel"),
        ("refine2.adapt_convs.0.1_1_conv.weight", "RefineBlock_1/RCUBlock_0/Conv_0/kernel"),
        ("refine4.output_convs.3_2_conv.weight", "RefineBlock_3/RCUBlock_2/Conv_5/kernel"),
        ("refine3.msf.convs.1.bias", "RefineBlock_2/MSFBlock_0/Conv_1/bias"),
        ("refine3.crp.convs.0.weight", "RefineBlock_2/CRPBlock_0/Conv_0/kernel"),
    ],
)
def test_names_lead_where_the_modules_compute_the_same(name, place):
    assert torch_to_flax(name) == place


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("res3.1.conv1.bias", "ResidualBlock_5/Conv_0/bias"),
        ("res31.0.conv1.bias", "ResidualBlock_6/Conv_0/bias"),
        ("res4.0.conv1.bias", "ResidualBlock_8/Conv_0/bias"),
        ("refine31.crp.convs.1.weight", "RefineBlock_2/CRPBlock_0/Conv_1/kernel"),
        ("refine3.crp.convs.1.weight", "RefineBlock_3/CRPBlock_0/Conv_1/kernel"),
    ],
)
def test_the_additional_stage_for_256_pixels_is_the_fourth_down_and_the_third_up(name, place):
    assert torch_to_flax(name, deepest=True) == place


def test_the_norms_of_the_conditional_network_have_their_places():
    norm = "ConditionalInstanceNorm2dPlus"
    for name, place in {
        "res1.0.normalize2.embed.weight": f"ConditionalResidualBlock_0/{norm}_1",
        "refine2.adapt_convs.1.2_1_norm.embed.weight": f"CondRefineBlock_1/CondRCUBlock_1/{norm}_2",
        "refine2.msf.norms.0.embed.weight": f"CondRefineBlock_1/CondMSFBlock_0/{norm}_0",
    }.items():
        assert torch_to_flax(name, conditional=True) == f"{place}/Embed_0/embedding"


@pytest.mark.parametrize(
    "name",
    [
        "conv_in.weight",
        "begin_conv.alpha",
        "normalizer.embed.weight",
        "res31.0.conv1.weight",
        "res1.2.conv1.weight",
        "res1.0.conv3.weight",
        "refine9.crp.convs.0.weight",
        "refine1.crp.convs.weight",
        "module.begin_conv.weight",
    ],
)
def test_a_name_of_another_network_is_refused(name):
    with pytest.raises(UserError, match="is not the name"):
        torch_to_flax(name)
