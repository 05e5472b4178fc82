"""What a configuration can say is observed: the pixels that each mask hides, and the noise of observations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.degradations import DEGRADATIONS, REGIONS, Grey, Mask, observe
from score_sde.errors import UserError

SHAPE = (8, 12, 3)
KEY = jax.random.key(0)
X = jnp.asarray(np.random.RandomState(0).uniform(-1.0, 1.0, (3, *SHAPE)), jnp.float32)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("missing", [1e-3, 0.25, 0.5, 0.999])
def test_a_mask_hides_its_share_of_the_pixels_and_neither_none_nor_all(region, missing):
    known = np.asarray(Mask(region=region, missing=missing).known(KEY, SHAPE))
    assert known.shape == SHAPE and (known == known[..., :1]).all()  # whole pixels
    hidden = 1.0 - known.mean()
    assert 0.0 < hidden < 1.0
    # A row, or a pixel all around, is the unit.
    assert abs(hidden - missing) < {"half": 1 / 8, "box": 0.3, "random": 1 / 96}[region] + 1e-9


def test_regions_are_where_they_are_called():
    half, box, random = (1 - np.asarray(Mask(region=region).known(KEY, SHAPE))[..., 0] for region in REGIONS)
    assert half[4:].all() and not half[:4].any()
    for picture in (box, box[::-1], box[:, ::-1]):  # in the middle
        np.testing.assert_array_equal(picture, box)
    assert box[3:5, 5:7].all() and not box[0].any() and not box[:, 0].any()
    another = 1 - np.asarray(Mask(region="random").known(jax.random.key(1), SHAPE))[..., 0]
    assert (another != random).any() and another.sum() == random.sum()


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_observations_are_the_operator_and_noise_where_anything_is_known(name):
    degradation, keys = DEGRADATIONS[name](), jax.random.split(KEY, 3)
    operator, known = degradation.operator(KEY, SHAPE), degradation.known(KEY, SHAPE)
    np.testing.assert_array_equal(observe(keys, operator, X, 0.0, known), operator(X))
    noise = np.asarray(observe(keys, operator, X, 0.5, known) - operator(X))
    if known is not None:
        assert not noise[:, ~np.asarray(known)].any()
        noise = noise[:, np.asarray(known)]
    count = noise.size
    assert abs(noise.mean()) < 0.5 * 4.5 / np.sqrt(count) and abs(noise.std() / 0.5 - 1.0) < 4.5 / np.sqrt(2 * count)
    # The noise of an image depends on its own key alone.
    later = observe(keys[1:], operator, X[1:], 0.5, known)
    np.testing.assert_allclose(later, observe(keys, operator, X, 0.5, known)[1:], atol=1e-6)


@pytest.mark.parametrize("name", [name for name, make in DEGRADATIONS.items() if make().averages])
def test_averages_of_an_image_stay_in_its_range(name):
    ends = jnp.stack([jnp.full(SHAPE, -1.0), jnp.full(SHAPE, 1.0)])
    for batch in (X, ends):
        assert np.abs(DEGRADATIONS[name]().operator(KEY, SHAPE)(batch)).max() <= 1.0 + 1e-5


WRONG = {
    "everything": (lambda: Mask(missing=1.0), "missing is 1.0; expected a share"),
    "a region": (lambda: Mask(region="hafl"), "Unknown region 'hafl'. Did you mean 'half'"),
    "gray": (lambda: Grey().operator(KEY, (8, 8, 1)), "are gray already; expected three channels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_told(name):
    make, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        make()
