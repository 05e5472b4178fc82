"""The methods that draw images given observations of them, by name."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.arguments import not_fulfilled
from score_sde.chains import Chain
from score_sde.conditioning import DAPS, Inpaint, LinearOperator, RePaint, posterior_score, twisted_diffusion
from score_sde.conditioning.operators import Observations
from score_sde.conditioning.posterior import METHODS
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.fields.conditioning import Conditioning
from score_sde.keys import fold_in
from score_sde.labels import Conditioned, unconditioned
from score_sde.methods import make_method
from score_sde.samplers import Adaptive, Decoder
from score_sde.sampling import FixedSteps
from score_sde.solvers import Solver
from score_sde.solvers.base import Solution
from score_sde.typing import Params, PRNGKey, SampleKeys, ScoreFn

_CHOSEN = 0x7FFFFFFD  # purpose of the key by which a draw chooses among the particles of its image


class Observed(NamedTuple):
    """What is observed of every image."""

    operator: LinearOperator
    known: Array | None  # 1 where a value of an image is observed itself, 0 elsewhere; ``None`` if none is


class Restorer(NamedTuple):
    """A method that draws images given observations of them."""

    # From experiment, operator, parameters, a key and an observation for each row to a draw for each.
    draw: Callable[[Experiment, Observed, Params, SampleKeys, Observations], Solution]
    noise: Callable[[Any], Any]  # whether it takes a standard deviation of the noise
    expected: str  # that condition in words
    # Products with the Jacobian of the network for each evaluation of it.
    products: Callable[[Conditioning], int] = lambda fields: 0
    holds_pixels: bool = False  # whether it holds known pixels, and so takes masks alone
    repeats_steps: bool = False  # whether it repeats the steps of the configured solver
    follows_levels: bool = False  # whether it needs the times between the levels of a chain
    shares_run: bool = False  # whether all draws of an image come from one run; rows then come image by image
    takes_solver: bool = True  # whether it follows the configured solver; the others follow its times alone


def posterior_sampler(
    experiment: Experiment, operator: Callable[[Array], Array], y: Observations, noise_std: Any, **options: Any
) -> FixedSteps | Adaptive:
    """The configured sampler along the score of data given observations; its options are those of ``posterior_score``.

    Learned variances belong to the score without observations, and are left out.

    Raises:
        UserError: As :func:`~score_sde.conditioning.posterior_score`, and for an autoencoder, which has no score.
    """
    sampler = experiment.sampler
    if isinstance(sampler, Decoder):
        raise UserError(f"config.model.name is {experiment.settings.model.name}, which has no score to restore with.")

    def score_of(params: Params) -> ScoreFn:
        score_fn = experiment.followed_score(params)
        return posterior_score(experiment.process, score_fn, operator, y, noise_std, **options)

    if isinstance(sampler, FixedSteps):
        return dataclasses.replace(sampler, score_of=score_of, law_of=None)
    return dataclasses.replace(sampler, score_of=score_of)


def _by_score(
    name: str, experiment: Experiment, seen: Observed, params: Params, keys: SampleKeys, y: Observations
) -> Solution:
    fields = experiment.settings.conditioning
    options = {"method": name, "iterations": fields.solve_steps, "data_std": fields.data_std}
    sampler = posterior_sampler(experiment, seen.operator, y, fields.noise_std, **options)
    return sampler.of_keys(params, keys, experiment.event_shape)


def _repaint(experiment: Experiment, seen: Observed, params: Params, keys: SampleKeys, y: Observations) -> Solution:
    method = make_method(experiment.settings.sampling)
    assert seen.known is not None and isinstance(method, Solver)
    mask = jnp.broadcast_to(seen.known[None], y.shape)
    inpaint = Inpaint(solver=method, known=y, mask=mask)
    solver = RePaint(solver=inpaint, num_repeats=experiment.settings.conditioning.num_repeats)
    found = experiment.fixed_steps(solver, experiment.times).of_keys(params, keys, experiment.event_shape)
    return found._replace(y=inpaint.restore(found.y))


def _daps(experiment: Experiment, seen: Observed, params: Params, keys: SampleKeys, y: Observations) -> Solution:
    fields = experiment.settings.conditioning
    solver = DAPS(
        operator=seen.operator,
        y=y,
        noise_std=fields.noise_std,
        num_flow_steps=fields.flow_steps,
        t_end=experiment.settings.sampling.t_min,
    )
    # The mean of the last step is the draw itself, up to the coefficient of the mean, before it is noised.
    steps = dataclasses.replace(experiment.fixed_steps(solver, experiment.times), denoising="mean")
    found = steps.of_keys(params, keys, experiment.event_shape)
    return found._replace(y=found.y / experiment.process.marginal(experiment.times[-1]).mean_coeff)


def _tds(experiment: Experiment, seen: Observed, params: Params, keys: SampleKeys, y: Observations) -> Solution:
    """One run for each image, with the key of its first draw; every draw chooses one of the particles."""
    fields, times = experiment.settings.conditioning, experiment.times
    own, labels = unconditioned(params)

    def run(key: PRNGKey, y: Array, label: Array | None) -> Any:
        return twisted_diffusion(
            key,
            experiment.process,
            experiment.followed_score(own if label is None else Conditioned(own, label)),
            seen.operator,
            y[None],
            fields.noise_std,
            shape=experiment.event_shape,
            times=times,
            num_particles=fields.num_particles,
            data_std=fields.data_std,
        )

    each = slice(None, None, fields.draws)
    particles = jax.vmap(run)(keys[each], y[each], None if labels is None else labels[each])
    images = jnp.repeat(jnp.arange(len(particles.x)), fields.draws)
    chosen = jax.vmap(jax.random.categorical)(fold_in(keys, _CHOSEN), particles.log_weights[images])
    share = fields.num_particles * len(times) / fields.draws
    return Solution(particles.x[images, chosen], jnp.full(keys.shape, round(share)), jnp.ones(keys.shape, bool))


def _not_negative(noise_std: Any) -> Any:
    return noise_std >= 0.0


#: Methods by their names.
RESTORERS: Mapping[str, Restorer] = MappingProxyType(
    {
        **{
            name: Restorer(
                functools.partial(_by_score, name),
                method.noise,
                method.expected,
                lambda fields, method=method: method.products(fields.solve_steps),
            )
            for name, method in METHODS.items()
        },
        "repaint": Restorer(
            _repaint,
            lambda noise_std: noise_std == 0.0,
            "0, since repaint holds known pixels exactly",
            holds_pixels=True,
            repeats_steps=True,
        ),
        "daps": Restorer(_daps, _not_negative, "0 or more", follows_levels=True, takes_solver=False),
        "tds": Restorer(
            _tds,
            lambda noise_std: noise_std > 0.0,
            "a number above 0, by which twists divide",
            products=lambda fields: 1,
            shares_run=True,
            takes_solver=False,
        ),
    }
)


def problems_of_method(experiment: Experiment, seen: Observed) -> Iterator[str]:
    """Sentences about a method that does not go with the operator, the noise, the sampler or the process."""
    fields, sampling = experiment.settings.conditioning, experiment.settings.sampling
    method = RESTORERS[fields.method]
    yield from not_fulfilled("config.conditioning.noise_std", fields.noise_std, method.noise, method.expected)
    if fields.classifier and not fields.labels:
        yield (
            f"config.conditioning.classifier is {fields.classifier} and config.conditioning.labels is (): images are "
            "restored as of no class; expected their classes in config.conditioning.labels, or no classifier."
        )
    if method.holds_pixels and seen.known is None:
        yield (
            f"config.conditioning.method is {fields.method}, which holds known pixels, and config.conditioning."
            f"operator={fields.operator} shows none as they are; expected operator=mask, or another method."
        )
    if method.repeats_steps and not isinstance(make_method(sampling), Solver):
        yield (
            f"config.conditioning.method is {fields.method}, which repeats the steps of a solver, and config.sampling."
            f"predictor={sampling.predictor} chooses its own; expected a predictor of fixed steps, such as ancestral."
        )
    if method.follows_levels and isinstance(experiment.process, Chain):
        yield (
            f"config.conditioning.method is {fields.method}, which follows the flow at times between the levels of a "
            f"chain (config.sde.schedule={experiment.settings.sde.schedule}); expected another method."
        )
