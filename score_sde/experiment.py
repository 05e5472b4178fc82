"""The boundary where a configuration becomes typed objects; the code below it knows no configurations."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Integer

from score_sde.chains import Chain
from score_sde.conditioning.classes import class_prediction, class_score
from score_sde.conditioning.guidance import classifier_guidance
from score_sde.conditioning.noisy_classes import ClassLogProb
from score_sde.config import build
from score_sde.diffusions import make_process, make_sde
from score_sde.distributed import kept, make_mesh, state_sharding, with_sharding
from score_sde.errors import UserError, refuse
from score_sde.fields import DEFAULTS, Settings
from score_sde.fields.settings import Nested
from score_sde.labels import Conditioned, Guided, unconditioned
from score_sde.likelihood import DEQUANTIZATIONS
from score_sde.methods import make_method, make_predictor, make_times
from score_sde.models.adapters import LinenClassifier
from score_sde.models.registry import NETWORKS, make_dequantizer
from score_sde.objectives import LatentVariableModel, NoiseAndFraction, class_conditional, make_predict_fn
from score_sde.outside.parts import option_problems
from score_sde.parameterization import PARAMETERIZATIONS, THRESHOLDS, Parameterization, make_score_fn, thresholded
from score_sde.processes import Process
from score_sde.quantization import PLACES, Quantization
from score_sde.samplers import Adaptive, AdaptiveMethod, Decoder, ModelSampler
from score_sde.sampling import FixedSteps, Grid
from score_sde.sdes import SDE
from score_sde.solvers import CORRECTORS, Solver, follows_of, noise_scale_of
from score_sde.solvers.pairing import follows_chain, too_long
from score_sde.standardization import Standardization
from score_sde.state import TrainState, create_state, state_of
from score_sde.training.objective import OBJECTIVES, VARIANCES, make_loss, make_trainees
from score_sde.training.optim import make_optimizer
from score_sde.training.step import Prepare, TrainStep, configured_step
from score_sde.typing import Batch, Dequantizer, Loss, Network, Params, ScoreFn, Times, expand_like
from score_sde.validation import PURPOSES, Purpose, check_steps, class_problems, has_score, need_score, problems_of
from score_sde.variational import LearnedReversal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """All the objects of a run: the data, the process, the network, and how they are trained and sampled."""

    settings: Settings
    mesh: Mesh  # the devices
    event_shape: tuple[int, ...]
    num_classes: int  # classes that the network is trained on; 0 for a run without labels
    quantization: Quantization
    prepare: Prepare  # from gray levels to data as they are trained on
    sde: SDE
    process: Process  # trained and sampled: the SDE, or a chain that converges to it
    network: Network  # computes the score
    reversal_network: Network  # the same network, with a second output: the variances of a chain's steps
    latent: LatentVariableModel | None  # a variational autoencoder, which has neither; else None
    parameterization: Parameterization
    loss: Loss
    tx: optax.GradientTransformation
    train_step: TrainStep
    classifier: LinenClassifier | None = None  # of noisy data, which guides the samples of ``Guided`` parameters

    @classmethod
    def from_config(
        cls,
        config: Nested,
        event_shape: tuple[int, ...],
        num_grey_levels: int | None,
        *,
        num_classes: int | None = None,
        standardization: Standardization | None = None,
        network: Any = None,
        mesh: Mesh | None = None,
        purposes: Collection[Purpose] = PURPOSES,
    ) -> "Experiment":
        """Build a run for data of the given event shape and number of gray levels (``None``: continuous).

        It runs on the devices of ``mesh``, by default all there are, arranged by ``config.mesh``.

        Continuous data have ``None`` gray levels, and data without labels ``None`` classes. The standardization is the
        one of ``config.data.standardize``, whose numbers come from the data. A given network stands in for the
        configured one. Fields that the purposes do not read are not checked.

        Raises:
            UserError: With every problem: unknown fields and names, values out of range or at odds with others.
        """
        settings = Settings.of(config)
        if mesh is None:
            mesh = make_mesh(data=settings.mesh.data, fsdp=settings.mesh.fsdp)
        refuse(_problems(settings, event_shape, num_grey_levels, num_classes, purposes, network))
        classes = classes_of(settings, num_classes)
        built = functools.partial(_built, settings, mesh, event_shape, num_grey_levels, classes, standardization)
        if network is not None or standardization is not None:  # which have no hash
            return built(network=network)
        # Runs of a sweep share what they train with, and so its compiled programs.
        deciding = settings.with_(seed=DEFAULTS.seed, **{group: DEFAULTS[group] for group in _NOT_TRAINED_WITH})
        same = kept((_built, deciding, mesh, event_shape, num_grey_levels, classes), built)
        return dataclasses.replace(same, settings=settings)

    @functools.cached_property
    def sampler(self) -> ModelSampler:
        """The sampler of ``config.sampling``; of a latent variable model its decoder.

        Raises:
            UserError: If the predictor cannot follow the process, or not with this noise.
        """
        sampling = self.settings.sampling
        if self.latent is not None:
            return Decoder(latent=self.latent, denoising=sampling.denoising)
        method, corrected = make_method(sampling), sampling.corrector in CORRECTORS
        name = f"{sampling.predictor} + {sampling.corrector}" if corrected else sampling.predictor
        if isinstance(method, Solver):
            law_of = (lambda params: self.reversal(params).step) if self.learns_variances else None
            return self.fixed_steps(method, self.times, name=name, law_of=law_of)
        return Adaptive(
            name=name,
            score_of=self.followed_score,
            process=self.sde,
            method=method,
            t_min=sampling.t_min,
            noise_scale=self.noise_scale_for(method),
            denoising=sampling.denoising,
            condition=self.condition,
        )

    def fixed_steps(self, solver: Solver, times: Grid, **options: Any) -> FixedSteps:
        """The sampler that takes the steps of a solver along a grid.

        Raises:
            UserError: If the solver cannot follow the process along the grid, or not with this noise.
        """
        return FixedSteps(
            score_of=self.followed_score,
            process=self.process,
            solver=solver,
            times=times,
            noise_scale=self.noise_scale_for(solver),
            denoising=self.settings.sampling.denoising,
            condition=self.condition,
            **options,
        )

    @functools.cached_property
    def times(self) -> Grid:
        """The times of ``config.sampling``."""
        sampling = self.settings.sampling
        with jax.ensure_compile_time_eval():  # they are cached, so must be concrete even under a trace
            return self.grid(sampling.grid, sampling.num_steps)

    def grid(self, name: str, num_steps: int) -> Grid:
        """A grid of times for sampling; for a chain, the levels nearest to one."""
        return make_times(self.settings, self.sde, self.process, grid=name, num_steps=num_steps)

    @functools.cached_property
    def dequantizer(self) -> Dequantizer | None:
        """The dequantizer of ``config.dequantizer``; ``None`` for uniform noise."""
        return make_dequantizer(dict(self.settings.dequantizer), self.event_shape, self.quantization.num_grey_levels)

    def with_sampling(self, **changes: Any) -> "Experiment":
        """The same run with some fields of ``config.sampling`` changed."""
        return dataclasses.replace(self, settings=self.settings.with_("sampling", **changes))

    def init_state(self) -> TrainState:
        """The state at step 0."""
        return create_state(self.network, self.tx, self.settings.seed, (1, *self.event_shape))

    def fresh_state(self, params: Params) -> TrainState:
        """The state at step 0 with given parameters."""
        return jax.jit(lambda p: state_of(p, self.tx, self.settings.seed))(params)

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state, without computing or allocating anything."""
        shapes = jax.eval_shape(self.init_state)
        return with_sharding(shapes, state_sharding(self.mesh, shapes))

    def score_fn(self, params: Params) -> ScoreFn:
        """The score of the SDE's marginals under given parameters, without dropout.

        Parameters that are :class:`~score_sde.labels.Conditioned` give the score of a class.

        Raises:
            UserError: If the network has learned something else.
        """
        need_score(self.settings, "this measurement")
        return make_score_fn(self.network, self.parameterization, self.sde, params)

    def followed_score(self, params: Params) -> ScoreFn:
        """The score that samplers follow: guided by the classes of :meth:`condition`, if there are any.

        With ``sampling.thresholding`` its denoised samples are images.
        """
        if not has_score(self.settings):
            return self.in_range(self._model_score(params))  # guidance is of scores
        own, label = unconditioned(params)
        if self.classifier is None or not isinstance(own, Guided):
            return self.in_range(class_score(self._model_score, params, **self._guidance))
        model = Conditioned(own.params, label) if self.num_classes else own.params
        score_fn = class_score(self._model_score, model, **self._guidance)
        log_prob = ClassLogProb(functools.partial(self.classifier.logits, own.classifier), self.process, label)
        return self.in_range(classifier_guidance(score_fn, log_prob, self.settings.conditioning.classifier_scale))

    @property
    def _guidance(self) -> dict[str, Any]:
        fields = self.settings.conditioning
        limits = {"interval": fields.guidance_interval or None, "rescale": fields.rescale, "process": self.process}
        return {"scale": fields.scale, **limits}

    def _model_score(self, params: Params) -> ScoreFn:
        make = OBJECTIVES[self.settings.objective.kind].score
        return make(self.network, self.parameterization, self.process, params)

    def condition(self, params: Params, indices: Integer[Array, " batch"]) -> Params:
        """The parameters for samples of some numbers, by their classes; of a run without labels the parameters alone.

        The classes are those of ``conditioning.labels``, or all, in turn: the class of a sample depends on its number.
        """
        if not self.sampled_classes:
            return params
        labels = jnp.asarray(self.sampled_classes)
        return Conditioned(params, labels[indices % len(labels)])

    @property
    def sampled_classes(self) -> tuple[int, ...]:
        """The classes of the samples, in turn; none for a run without labels."""
        count = self.num_classes if self.classifier is None else self.classifier.num_classes
        return self.settings.conditioning.labels or tuple(range(count)) if count else ()

    @property
    def learns_variances(self) -> bool:
        """Whether the network predicts the variances of the steps down a chain."""
        return VARIANCES[self.settings.parameterization.variances] is None

    def reversal(self, params: Params) -> LearnedReversal:
        """The steps down the chain as Gaussians, with the variances that the network was trained for.

        Raises:
            UserError: If the network was not trained on a chain.
        """
        chain = self.process
        if not isinstance(chain, Chain):
            raise UserError("Only a chain has steps with variances; expected one, such as config.sde.schedule=linear.")
        predict_of = functools.partial(make_predict_fn, self.reversal_network, self.parameterization, chain)
        predict = class_prediction(predict_of, params, **self._guidance)

        def in_range(x: Batch, t: Times) -> NoiseAndFraction:
            noise, fraction = predict(x, t)
            std = expand_like(chain.marginal(t).std, x)
            return NoiseAndFraction(-std * self.in_range(lambda x, t, /: -noise / std)(x, t), fraction)

        plain = self.settings.sampling.thresholding not in THRESHOLDS
        return LearnedReversal(chain=chain, predict=predict if plain else in_range)

    def in_range(self, score_fn: ScoreFn) -> ScoreFn:
        """A score with the thresholding of ``config.sampling``."""
        kind = self.settings.sampling.thresholding
        if kind not in THRESHOLDS:
            return score_fn
        low = -1.0 if self.settings.data.centered else 0.0
        quantile = THRESHOLDS[kind](self.settings.sampling.threshold_quantile)
        return thresholded(self.process, score_fn, low=low, high=1.0, quantile=quantile)

    def noise_scale_for(self, method: Solver | AdaptiveMethod) -> float:
        """0 for a solver of the probability flow, else ``sampling.noise_scale``.

        Raises:
            UserError: If the solver adds a fixed noise regardless of the noise scale, or steps with something else than
                the network has learned.
        """
        check_steps(self.settings, method)
        wanted = None if follows_of(method) == "flow" else self.settings.sampling.noise_scale
        return noise_scale_of(method, wanted, name="config.sampling.noise_scale")


#: Groups of fields that no object of an experiment is built from: they are read from its settings.
_NOT_TRAINED_WITH = ("sampling", "pareto", "plan", "likelihood", "evaluation", "export", "dequantizer", "classifier")


def _built(
    settings: Settings,
    mesh: Mesh,
    event_shape: tuple[int, ...],
    num_grey_levels: int | None,
    classes: int,
    standardization: Standardization | None,
    network: Any = None,
) -> Experiment:
    """The objects of a run with valid settings."""
    sde = make_sde(settings)
    process = make_process(settings, sde)
    trainees = make_trainees(settings, event_shape, classes, num_grey_levels, network)
    representation = {"centered": settings.data.centered, "standardization": standardization}
    quantization = Quantization(num_grey_levels=num_grey_levels, **representation)
    kind = PARAMETERIZATIONS[settings.parameterization.output]
    parameterization = build(kind, {**settings.parameterization, **kind.fixed, "quantization": quantization})
    prepare = functools.partial(PLACES[settings.objective.levels], quantization)
    loss = make_loss(settings, process, trainees, parameterization, quantization, event_shape)
    if classes:
        loss = class_conditional(loss, settings.conditioning.null_probability)
    project = NETWORKS[settings.model.name].project if network is None else None
    tx = make_optimizer(settings.optim, num_steps=settings.training.num_steps, project=project)
    return Experiment(
        settings=settings,
        mesh=mesh,
        event_shape=event_shape,
        num_classes=classes,
        quantization=quantization,
        prepare=prepare,
        sde=sde,
        process=process,
        network=trainees.score,
        reversal_network=trainees.reversal,
        latent=trainees.latent,
        parameterization=parameterization,
        loss=loss,
        tx=tx,
        train_step=configured_step(settings, loss, tx, prepare=prepare, mesh=mesh),
    )


def _problems(
    config: Settings,
    event_shape: tuple[int, ...],
    num_grey_levels: int | None,
    num_classes: int | None,
    purposes: Collection[Purpose],
    network: Any,
) -> list[str]:
    """Every problem with fields that are valid one by one; some of them appear only in building."""
    found = [
        *problems_of(config, event_shape, num_grey_levels, purposes, own=network is not None),
        *class_problems(config, num_classes, purposes),
    ]

    def attempt(make: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return make(*arguments)
        except UserError as error:
            found.append(str(error))
            return None

    wanted = set(purposes)
    further = [section for section, use in {"sampling": "sample", "training": "train"}.items() if use in wanted]
    for section in ("sde", "model", "objective", "optim", *further):
        attempt(lambda section=section: found.extend(option_problems(config, section)))
    sde = attempt(make_sde, config)
    process = attempt(make_process, config, sde) if sde is not None else None
    attempt(make_trainees, config, event_shape, classes_of(config, num_classes), num_grey_levels, network)
    trained = DEQUANTIZATIONS[config.likelihood.dequantization].trained and not NETWORKS[config.model.name].is_latent
    if "dequantize" in wanted or ("likelihood" in wanted and trained):
        attempt(make_dequantizer, dict(config.dequantizer), event_shape, num_grey_levels)
    if "sample" in wanted and sde is not None and process is not None and not found:
        sampling = config.sampling
        try:
            times = make_times(config, sde, process, grid=sampling.grid, num_steps=sampling.num_steps)
        except UserError as error:
            found.append(
                f"{error} config.sampling.num_steps is {sampling.num_steps}, config.sampling.t_min {sampling.t_min:g}."
            )
        else:
            found += _pair_problems(config, process, times)
    return found


def _pair_problems(config: Settings, process: Process, times: Grid) -> Iterator[str]:
    """The reasons why the predictor cannot follow the process along the grid."""
    sampling = config.sampling
    if NETWORKS[config.model.name].is_latent:
        return
    method = make_predictor(sampling.predictor, sampling)
    if follows_chain(method) and (ends := too_long(process, times)) is not None:
        yield (
            f"config.sampling.predictor is {sampling.predictor} and config.sampling.num_steps is {sampling.num_steps}: "
            f"the step from t = {ends[0]:g} to {ends[1]:g} is too long for it; expected more steps (of VP, none "
            "longer than 1 / beta(t)), or another predictor, such as ancestral."
        )
    if sampling.noise_scale != 1.0 and follows_of(method) == "sde":
        yield (
            f"config.sampling.noise_scale is {sampling.noise_scale:g}, and the predictor {sampling.predictor} always "
            "adds the full noise of the reverse SDE; expected 1.0, or a predictor of any noise, such as euler_maruyama."
        )


def classes_of(config: Settings, num_classes: int | None) -> int:
    """The number of classes that a network is trained on, by default all of the data; 0 for a run without labels."""
    return (config.model.num_classes or num_classes or 0) if config.conditioning.classes else 0
