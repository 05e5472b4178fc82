"""A trained model as an object: samples, likelihoods, scores and codes, all in the data's own units."""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.arguments import check_key, not_fulfilled, not_masked, not_whole
from score_sde.data import ArraySource, DataRecord
from score_sde.data.arrays import checked_examples
from score_sde.distributed import batch_sharding, gathered, jit, shared_size
from score_sde.errors import UserError, refuse
from score_sde.evaluation.budget import error_budget
from score_sde.evaluation.likelihood import (
    BinNoise,
    data_protocol,
    dataset_likelihood,
    flow_draw,
    flow_protocol,
    log_levels,
)
from score_sde.evaluation.partial import Partial
from score_sde.evaluation.programs import export_program
from score_sde.evaluation.restorers import posterior_sampler
from score_sde.evaluation.samples import check_samples, solved_in_parts
from score_sde.experiment import Experiment
from score_sde.keys import sample_keys
from score_sde.labels import Conditioned
from score_sde.likelihood.latents import decode, encode
from score_sde.modes.folder import write_folder
from score_sde.modes.guiding import guided_by_classifier
from score_sde.modes.workdir import check_limit
from score_sde.notebook.inputs import check_untraced, classes_of, needed_classes
from score_sde.notebook.likelihood import Likelihood
from score_sde.report.card import model_card
from score_sde.solvers import Solver
from score_sde.solvers.base import Solution
from score_sde.typing import Batch, Params, PRNGKey
from score_sde.validation import class_problems

log = logging.getLogger("score_sde")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A trained model; made by :func:`score_sde.fit` and :func:`score_sde.load`.

    Data go in and come out as they were given for training: vectors, series and images of floats in their own units,
    images of gray levels as whole numbers. Samples and measurements are those of the modes of the command line with the
    same settings.

    Attributes:
        experiment: The objects of its run: process, network, parameterization, and all settings.
        params: The averaged parameters, which are sampled and measured.
        trained: The parameters themselves.
        step: The number of training steps.
        data: The record of the data that it was trained on.
        place: The working directory of its run, if it has one, whose measurements the card shows.
        card: The text of its model card, if it came with one.
        given: The name of the network, if a program gave it and no configuration names it.
    """

    experiment: Experiment
    params: Params
    trained: Params
    step: int
    data: DataRecord
    place: Path | None = None
    card: str | None = None
    given: str = ""
    _programs: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)  # compiled, by what decides them

    def __repr__(self) -> str:
        """The process, the network and the data in a line."""
        settings, count = self.experiment.settings, sum(leaf.size for leaf in jax.tree.leaves(self.params))
        kind = f"{settings.sde.name} diffusion of {self.data.name} {self.data.shape}"
        return f"Model({kind}, {count:,} parameters, step {self.step:,})"

    def sample(
        self,
        key: PRNGKey,
        n: int,
        *,
        solver: str | Solver | None = None,
        steps: int | None = None,
        labels: int | Sequence[int] | np.ndarray | None = None,
        scale: float | None = None,
        first: int = 0,
    ) -> np.ndarray:
        """Draw ``n`` samples; sample ``i`` depends on the key and ``first + i`` alone.

        Args:
            key: Draws everything random.
            n: How many.
            solver: The name of a predictor (``docs/fields.md``), or a :class:`~score_sde.solvers.Solver`; by default
                the one of the run.
            steps: Steps of a solver that does not choose them.
            labels: A class for all samples or one for each; by default all classes in turn. -1 for no class. The
                classifier of ``config.conditioning.classifier``, if the run has one, guides the samples to them.
            scale: Guidance towards the class: 1 for none.
            first: Index of the first sample.

        Returns:
            ``(n, *event)``: floats in the data's own units, or gray levels.

        Raises:
            UserError: For unknown solvers, classes that the model does not have, guidance by classes of a model that
                has no score without them, and samples that are not finite.
        """
        check_untraced("sample", key, n, labels, first)
        check_key(key)
        refuse([*not_whole("n", n, 1), *not_whole("first", first, 0, 2**32 - 1)])
        n, first = int(n), int(first)
        experiment, params = self._guided(self._with_sampling(solver, steps, scale))
        classes = None if labels is None else classes_of(experiment, labels, n)
        size = shared_size(experiment.mesh, min(n, experiment.settings.sampling.batch_size))
        decisive = ("sample", experiment.settings, repr(solver), size, classes is None)
        program = self._program(decisive, lambda: _draws(experiment, solver, size))

        def draw(start: int) -> Solution:
            own = None if classes is None else classes[np.minimum(start + np.arange(size), n - 1)]
            return program(params, own, key, first + start)

        quantize, limit = experiment.quantization.quantize, experiment.settings.sampling.max_steps
        kept = solved_in_parts(draw, n, size=size, max_steps=limit, finish=lambda x: [quantize(x)], kept=Partial())
        return np.asarray(kept.columns()[0])

    def log_likelihood(
        self, key: PRNGKey, x: Any, *, labels: int | Sequence[int] | np.ndarray | None = None, **changes: Any
    ) -> Likelihood:
        """The log-likelihood of data by the probability flow, in nats per example in the data's own units.

        Of gray levels it is a lower bound of the log-probability of the levels: the mean over the dequantization noise.

        Args:
            key: Draws dequantization noise and probes.
            x: Data of shape ``(n, *event)``.
            labels: A class for all examples or one for each; needed by a class-conditional model.
            **changes: Other values for the fields of ``config.likelihood``, such as ``tolerance=1e-6``.

        Raises:
            UserError: For data of another shape or kind, and for a network that has no likelihood in continuous time.
        """
        check_untraced("log_likelihood", key, x, labels)
        check_key(key)
        seed = int(jax.random.bits(key))
        fields = {"seed": seed, "likelihood.num_examples": 0, "likelihood.flow_examples": 0}
        fields |= {f"likelihood.{name}": value for name, value in changes.items()}
        experiment = dataclasses.replace(self.experiment, settings=self.experiment.settings.with_fields(fields))
        check_limit(experiment.settings)
        source, noise, settings = self._source(x, labels), BinNoise(), experiment.settings.likelihood
        draw = self._program(settings, lambda: flow_draw(experiment, noise))
        found = dataset_likelihood(experiment, self.params, source, noise=noise, draw=draw)
        data = data_protocol(experiment, noise, len(source)).removesuffix(" of the test split")
        return Likelihood(
            logp=found.nats - log_levels(experiment),
            num_dims=int(np.prod(experiment.event_shape)),
            num_evals=found.num_evals,
            success=found.success,
            probe_std_error=found.probe_std_error,
            protocol=f"{flow_protocol(settings)}, {data}",
            measure_budget=lambda: error_budget(experiment, self.params, source, found, noise=noise, nats=True),
        )

    def score(self, x: Any, t: Any, *, labels: Any = None) -> Batch:
        """The score ``grad_x log p_t(x)`` of the marginal at time ``t``, in the data's own units; jit and grad pass it.

        The noisy data are in the data's units too: a value ``z`` of the process stands at the place of data ``z``.

        Args:
            x: Noisy data ``(n, *event)``; gray levels as floats, with ``k`` at the middle of its bin.
            t: A time for each example, or for all; above 0, where data have some noise, and at most 1.
            labels: A class for each example, or for all.

        Raises:
            UserError: For data of another shape, and for times that are none or not one for each.
        """
        x, t = jnp.asarray(x, float), jnp.asarray(t, float)
        self._check_shape("x", x)
        if t.shape not in ((), x.shape[:1]):
            raise UserError(f"t has shape {t.shape}; expected a time for all examples, or {len(x)} times.")
        refuse(not_fulfilled("t", t, lambda t: (t > 0.0) & (t <= 1.0), "times above 0, at most 1"))
        times = jnp.broadcast_to(t, x.shape[:1])
        params = self._given(self.params, None if labels is None else classes_of(self.experiment, labels, len(x)))
        inner, pull = jax.vjp(self.experiment.quantization.midpoints, x)
        return pull(self.experiment.score_fn(params)(inner, times))[0]

    def encode(self, x: Any, *, labels: Any = None) -> np.ndarray:
        """The latent codes of data along the probability flow, which look like draws from the prior.

        Gray levels are taken at the middle of their bins, so nothing is random.

        Raises:
            UserError: For data of another shape or kind, and if the solver gives up.
        """
        check_untraced("encode", x, labels)
        source = self._source(x, labels)
        rows = np.arange(len(source))
        return self._along(encode, source.gather(rows), source.labels(rows))

    def decode(self, z: Any, *, labels: Any = None) -> np.ndarray:
        """The data of latent codes, the inverse of :meth:`encode` up to the tolerance of the solver.

        Raises:
            UserError: For codes of another shape, and if the solver gives up.
        """
        check_untraced("decode", z, labels)
        refuse(not_masked("z", z))
        codes = np.asarray(z, np.float32)
        self._check_shape("z", codes)
        x = self._along(decode, codes, needed_classes(self.experiment, labels, len(codes)))
        return self.experiment.quantization.quantize(x)

    def restore(
        self,
        key: PRNGKey,
        y: Any,
        operator: Callable[[Array], Array],
        *,
        noise_std: float = 0.0,
        method: str = "mmps",
        iterations: int = 3,
        solver: str | Solver | None = None,
        steps: int | None = None,
        labels: Any = None,
    ) -> np.ndarray:
        """Draw data given observations ``y = operator(x) + noise_std z`` of them, all in the data's own units.

        Args:
            key: Draws everything random.
            y: An observation for each draw; repeat one for several draws.
            operator: From a batch of data to a batch of observations: linear, but for ``method="dps"``.
            noise_std: Standard deviation of the noise.
            method: ``"mmps"``, ``"pigdm"``, ``"dps"`` or ``"ddnm"``; see
                :func:`score_sde.conditioning.posterior_score`.
            iterations: Iterations of the linear solver of ``"mmps"``.
            solver: As for :meth:`sample`.
            steps: As for :meth:`sample`.
            labels: A class for all draws or one for each.

        Raises:
            UserError: For observations of another shape than the operator makes, and operators and noise that the
                method does not take.
        """
        check_untraced("restore", key, y, labels)
        check_key(key)
        refuse(not_masked("y", y))
        observed = jnp.asarray(y, jnp.float32)
        (experiment, own), count = self._guided(self._with_sampling(solver, steps, None)), len(observed)
        own_units = experiment.quantization.unscaled
        start = operator(own_units(jnp.zeros((1, *experiment.event_shape))))

        def centered(x: Array) -> Array:  # linear in the values that the network sees, though the data are shifted too
            return operator(own_units(x)) - start

        sampler = posterior_sampler(
            experiment,
            centered,
            observed - start,
            noise_std,
            method=method,
            iterations=iterations,
            data_std=experiment.settings.conditioning.data_std,
        )
        params = self._given(own, needed_classes(experiment, labels, count))
        draw = jit(lambda params, keys: sampler.of_keys(params, keys, experiment.event_shape))
        x, _, success = gathered(draw(params, sample_keys(key, 0, count)))
        check_samples(x, success, experiment.settings.sampling.max_steps)
        return experiment.quantization.quantize(x)

    def save(self, folder: str | os.PathLike[str], *, programs: Sequence[str] = ()) -> Path:
        """Write the model as a folder that :func:`score_sde.load` reads, with a model card; returned is its path.

        A network that was given to :func:`score_sde.fit` is not written, only its parameters are: ``load`` takes it.

        Args:
            folder: The folder, which may hold an earlier model.
            programs: Names of programs to write beside it, ``"sampler"``, ``"likelihood"`` or ``"score"``, which JAX
                runs without this package.

        Raises:
            UserError: If there is a run in the folder, if it cannot be written, or a program cannot be exported.
        """
        written = [export_program(self.experiment, self.params, name) for name in programs]
        settings, state = self.experiment.settings, {"params": self.trained, "ema_params": self.params}
        card = self.card
        if card is None or written:
            about = {"place": self.place, "programs": written, "given": self.given}
            card = model_card(settings, self.data, self.params, self.step, **about)
        if self.given:
            log.info("To load it needs the network, %s: score_sde.load(%r, network=...).", self.given, str(folder))
        rest = {**state, "step": self.step, "programs": written, "given": self.given}
        return write_folder(Path(folder), settings, self.data, card, **rest)

    def _check_shape(self, name: str, values: Any) -> None:
        if values.ndim == 0 or values.shape[1:] != self.data.shape:
            raise UserError(f"{name} has shape {values.shape}; expected {('n', *self.data.shape)}.".replace("'n'", "n"))

    def _program(self, decisive: Any, make: Callable[[], Any]) -> Any:
        """A compiled program, made once for all that decides it."""
        if decisive not in self._programs:
            self._programs[decisive] = make()
        return self._programs[decisive]

    def _with_sampling(self, solver: str | Solver | None, steps: int | None, scale: float | None) -> Experiment:
        changes: dict[str, Any] = {}
        if isinstance(solver, str):
            changes |= {"sampling.predictor": solver, "sampling.corrector": "none"}
        changes |= {} if steps is None else {"sampling.num_steps": steps}
        changes |= {} if scale is None else {"conditioning.scale": float(scale)}
        settings = self.experiment.settings.with_fields(changes)
        if scale is not None:
            refuse(class_problems(settings, self.experiment.num_classes or None, ("sample",)))
        return dataclasses.replace(self.experiment, settings=settings)

    def _guided(self, experiment: Experiment) -> tuple[Experiment, Params]:
        """The experiment with the classifier that guides its samples, if any, and the parameters for its samplers."""
        fields = experiment.settings.conditioning
        found, guided = self._program(("classifier", fields), lambda: guided_by_classifier(experiment))
        return dataclasses.replace(experiment, classifier=found.classifier), guided(self.params)

    def _along(self, carry: Callable[..., Solution], values: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """Data or codes at the other end of the probability flow."""
        experiment, settings = self.experiment, self.experiment.settings.likelihood
        check_limit(experiment.settings)

        def moved(params: Params, values: Array, labels: Array | None) -> Solution:
            x = experiment.quantization.midpoints(values) if carry is encode else values
            score_fn = experiment.score_fn(self._given(params, labels))
            return carry(experiment.sde, score_fn, x, t_end=settings.t_min, tolerance=settings.tolerance)

        y, _, success = gathered(self._program(carry, lambda: jit(moved))(self.params, values, labels))
        if not success.all():
            raise UserError("The ODE solver gave up on some of the examples; raise config.likelihood.tolerance.")
        return y

    def _source(self, x: Any, labels: Any) -> ArraySource:
        """Data to measure, checked against the data that the model was trained on."""
        levels = self.data.num_levels
        examples = checked_examples("x", x, levels)
        if examples.shape[1:] != self.data.shape:
            raise UserError(f"x has examples of shape {examples.shape[1:]}; expected {self.data.shape}.")
        return ArraySource(self.data.info, examples, needed_classes(self.experiment, labels, len(examples)))

    @staticmethod
    def _given(params: Params, labels: Any) -> Params:
        return params if labels is None else Conditioned(params, jnp.asarray(labels))


def _draws(experiment: Experiment, solver: str | Solver | None, size: int) -> Callable[..., Solution]:
    """The compiled program ``(params, labels, key, first) -> Solution`` of a batch of samples."""
    sampler: Any = experiment.sampler
    if solver is not None and not isinstance(solver, str):
        sampler = experiment.fixed_steps(solver, experiment.times)
    shape = (size, *experiment.event_shape)

    def draw(params: Params, labels: Array | None, key: PRNGKey, first: Array) -> Solution:
        if labels is None:
            return sampler(params, key, shape, first)
        return sampler.of_keys(Conditioned(params, labels), sample_keys(key, first, size), shape[1:])

    return jit(draw, out_shardings=batch_sharding(experiment.mesh))
