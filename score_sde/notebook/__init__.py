"""The interface of a notebook or a script: a model from arrays, from a folder or by its name, as one object.

>>> import flax.linen as nn
>>> import jax, jax.numpy as jnp, numpy as np
>>> import score_sde
>>> class Net(nn.Module):  # your own network: noisy data and the noise level in, something of the shape of the data out
...     @nn.compact
...     def __call__(self, x, condition, train=False):
...         h = nn.silu(nn.Dense(64)(jnp.concatenate([x, condition[:, None]], axis=1)))
...         return nn.Dense(2)(nn.silu(nn.Dense(64)(h)))
>>> data = np.random.default_rng(0).normal(size=(2000, 2)) @ np.array([[3.0, 1.0], [0.0, 0.5]])  # your own data
>>> model = score_sde.fit(data, score_sde.VP(), Net(), steps=600, progress=False)
>>> samples = model.sample(jax.random.key(0), 500)
>>> bool(np.allclose(samples.std(axis=0), data.std(axis=0), rtol=0.2))
True
>>> likelihood = model.log_likelihood(jax.random.key(1), data[:200])
>>> mean, error = likelihood.mean  # nats per example; the entropy is 1 + log(2 pi 1.5)
>>> bool(abs(mean + 1.0 + np.log(2 * np.pi * 1.5)) < 0.3)
True
"""

from score_sde.notebook.fitting import fit
from score_sde.notebook.likelihood import Likelihood
from score_sde.notebook.loading import load
from score_sde.notebook.model import Model

__all__ = ["Likelihood", "Model", "fit", "load"]
