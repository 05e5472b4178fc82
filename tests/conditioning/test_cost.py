"""The price of conditioning: floating-point operations of compiled programs in which the network is all the work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning import autoguidance, classifier_free, halves, operators, posterior_score
from score_sde.sdes import VP

WEIGHTS = [jnp.asarray(np.random.RandomState(i).randn(256, 256) / 16, jnp.float32) for i in range(4)]
X, T = jnp.ones((8, 256)), jnp.full(8, 0.5)
OPERATOR = operators.mask(jnp.arange(256) < 10)


def network(x, t, labels):
    """Four dense layers."""
    for weights in WEIGHTS:
        x = jnp.tanh(x @ weights + (t * labels)[:, None])
    return x


def plain(x, t):
    return network(x, t, jnp.ones(8, int))


def flops(score):
    analysis = jax.jit(score).lower(X, T).compile().cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]


def posterior(**options):
    return posterior_score(VP(), plain, OPERATOR, jnp.zeros((1, 256)), 0.5, **options)


SCORES = {
    "classifier-free": (lambda: classifier_free(*halves(network, jnp.ones(8, int)), 2.0), 2.1),
    "autoguidance": (lambda: autoguidance(plain, lambda x, t: 0.9 * plain(x, t), 2.0), 2.1),
    "dps": (lambda: posterior(method="dps"), 2.1),
    "pigdm": (lambda: posterior(method="pigdm"), 2.1),
    "ddnm": (lambda: posterior_score(VP(), plain, OPERATOR, jnp.zeros((1, 256)), 0.0, method="ddnm"), 1.1),
    "one iteration of mmps": (lambda: posterior(iterations=1), 2.1),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_conditional_score_costs_so_many_plain_evaluations(name):
    make, most = SCORES[name]
    assert flops(make()) < most * flops(plain)
