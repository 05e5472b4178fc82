"""Progressive distillation: a student whose step is two of its teacher's, exactly where both are linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.errors import UserError
from score_sde.labels import Labeled, Taught
from score_sde.objectives import class_conditional, distillation_loss, taught, variance_weighting
from score_sde.parameterization import NoisePrediction, make_score_fn
from score_sde.sdes import EDM, VP
from score_sde.solvers import DDIM
from tests.few_steps import Contracting
from tests.laws import float64

STD = 0.5


@pytest.mark.sweep
@pytest.mark.parametrize("sde", [EDM(sigma_max=10.0), VP()], ids=["edm", "vp"])
def test_the_contractions_of_the_steps_multiply(sde):
    """Halved twice, from eight steps to four and two; the loss of such a student is 0, and of no other."""
    with float64():
        x = jnp.linspace(-2.0, 2.0, 6)[:, None]
        keys = sampling.sample_keys(jax.random.key(0), 0, 6)
        network = Contracting(sde, STD, sampling.edm_times(sde, 8, 1e-3))

        def ends(params, steps):
            score = make_score_fn(network, NoisePrediction(), sde, params)
            times = sampling.edm_times(sde, steps, 1e-3)
            return sampling.integrate(keys, DDIM(), sde.reverse(score), x, times).x

        for teacher, student in ((1, 2), (2, 4)):
            steps = 8 // student
            times = sampling.edm_times(sde, 2 * steps, 1e-3)
            parts = (sde, network, NoisePrediction())
            loss = distillation_loss(*parts, times=times, weighting=variance_weighting)
            both = [Taught(network.of(n), network.of(teacher)) for n in (student, teacher)]
            exact, unlearned = (loss(one, jax.random.key(1), jnp.tile(x, (20, 1)), train=True) for one in both)
            assert float(exact.max()) < 1e-20 < 1e-8 < float(unlearned.max())
            np.testing.assert_allclose(ends(both[0].params, steps), ends(both[0].teacher, 2 * steps), rtol=1e-9)


@pytest.mark.parametrize("name", ["uniform", "quadratic", "log_snr", "edm"])
def test_every_other_time_of_a_teacher_is_a_time_of_the_student(name):
    """So that a student may teach."""
    grid, sde = sampling.GRIDS[name], VP()
    np.testing.assert_allclose(grid(sde, 16, 1e-3)[::2], grid(sde, 8, 1e-3), rtol=1e-4)


def test_the_teacher_stays_and_without_one_the_network_is_its_own(key):
    sde = EDM(sigma_max=10.0)
    times = sampling.edm_times(sde, 4, 1e-3)
    network, x = Contracting(sde, STD, times), jnp.linspace(-1.0, 1.0, 4)[:, None]
    loss = distillation_loss(sde, network, NoisePrediction(), times=times, weighting=variance_weighting)
    own, other = network.of(1), network.of(2)

    def value(params, teacher):
        return loss(Taught(params, teacher), key, x, train=True).mean()

    changes, stays = jax.grad(value, argnums=(0, 1))(own, other)
    assert float(jnp.abs(changes["factors"]).max()) > 0.0 == float(jnp.abs(stays["factors"]).max())
    np.testing.assert_allclose(loss(own, key, x, train=True).mean(), value(own, own), rtol=1e-6)
    np.testing.assert_allclose(taught(loss, other)(own, key, x, train=True).mean(), value(own, other), rtol=1e-6)
    labeled = taught(class_conditional(loss, 0.0), other)
    batch = Labeled(x, jnp.zeros(4, jnp.int32))
    np.testing.assert_allclose(labeled(own, key, batch, train=True).mean(), value(own, other), rtol=1e-6)
    with pytest.raises(UserError, match="expected an odd number"):
        distillation_loss(sde, network, NoisePrediction(), times=times[1:], weighting=variance_weighting)
