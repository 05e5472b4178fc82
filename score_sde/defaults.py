"""Every field of a configuration: its default and its meaning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The library types every field as a union of all kinds; ours are checked at run time, by check_fields.
    class ConfigDict(Any):
        """A nested, typo-safe dictionary of fields."""

else:
    from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """Every field there is, with its default; the defaults are those of the continuous VP DDPM++ of Song et al."""
    config = ConfigDict()
    config.seed = 42  # root of every random number: initialisation, training, sampling, likelihood; 0 to 2^32 - 1
    # Which average of the parameters is sampled and measured: 0 the one that was trained along, else the power-function
    # average of this relative width, such as 0.08, put together from the snapshots of optim.ema_widths
    config.ema_width = 0.0
    _add_mesh_fields(config)
    _add_process_fields(config)
    _add_model_fields(config)
    _add_training_fields(config)
    _add_dequantizer_fields(config)
    _add_measuring_fields(config)
    _add_likelihood_fields(config)
    _add_evaluation_fields(config)
    return config.lock()


def _add_mesh_fields(config: ConfigDict) -> None:
    """The devices it runs on, a grid of data times fsdp that share every batch."""
    config.mesh = ConfigDict()
    config.mesh.data = 0  # devices that each hold the whole state; 0 for as many as there are
    config.mesh.fsdp = 1  # devices that split it: parameters, their averages, the moments of the optimiser


def _add_process_fields(config: ConfigDict) -> None:
    """How data are diffused, and what the network says of it."""
    config.sde = ConfigDict()
    config.sde.name = "vp"  # vp, subvp or ve
    config.sde.beta_min = 0.1  # VP and sub-VP
    config.sde.beta_max = 20.0
    config.sde.sigma_min = 0.01  # VE
    config.sde.sigma_max = 50.0
    # continuous, or the chain of N = parameterization.num_scales levels to train and sample on: for vp linear (the
    # SDE's own), cosine, quad, const or jsd, with betas from beta_min / N to beta_max / N; for ve geometric (its own)
    # or uniform
    config.sde.schedule = "continuous"

    config.parameterization = ConfigDict()
    config.parameterization.output = "noise"  # what the network predicts: noise, score, data, v or edm
    config.parameterization.data_std = 0.5  # standard deviation of the (scaled) data, for input scaling and edm
    config.parameterization.scale_input = False  # divide the inputs by their standard deviation (always so for edm)
    config.parameterization.scale_by_sigma = True  # output=score: the network predicts the score times s
    config.parameterization.condition_on = (
        "time"  # time (999 t), log_time, log_noise (log s/m), level, descending_level
    )
    config.parameterization.num_scales = 1000  # noise levels of a network that is told their number; see times=levels
    # Of the steps down a chain, for objective.kind=bound: those of the posterior (small), of the transition (large), or
    # between them, value by value, as a second output of the network says (learned)
    config.parameterization.variances = "small"


def _add_model_fields(config: ConfigDict) -> None:
    """The network and the data."""
    config.model = ConfigDict()
    # ncsnpp, ddpm, ncsn, ncsnv2_64, ncsnv2_128, ncsnv2_256 (images) or mlp (vectors); vae has no score, but an encoder
    config.model.name = "ncsnpp"
    # Each network takes the fields below that it knows; ddpm fixes those of its blocks and pyramids.
    config.model.features = 128  # channels at full resolution; hidden width of the mlp
    config.model.channel_multipliers = (1, 2, 2, 2)  # channels per level, as multiples of features
    config.model.num_blocks = 4  # residual blocks per level
    config.model.attention_resolutions = (16,)  # feature-map heights with self-attention
    config.model.attention_every_block = False  # on the way up after every block, as in Ho et al., not once per level
    config.model.dropout = 0.1
    config.model.embedding = "positional"  # noise embedding: positional, fourier or none
    config.model.fourier_scale = 16.0  # standard deviation of the Fourier frequencies
    config.model.num_classes = 0  # of a class-conditional U-Net; 0 for none
    config.model.activation = "swish"  # elu, relu, lrelu or swish
    config.model.resblock_type = "biggan"  # resampling inside residual blocks (biggan) or between them (ddpm)
    config.model.resample_with_conv = True  # resblock_type=ddpm: a convolution at every resampling
    config.model.fir = False  # filter when resampling
    config.model.fir_kernel = (1, 3, 3, 1)
    config.model.progressive = "none"  # output pyramid: none, output_skip or residual
    config.model.progressive_input = "none"  # input pyramid: none, input_skip or residual
    config.model.progressive_combine = "sum"  # how input_skip joins the trunk: sum or cat
    config.model.skip_rescale = True  # divide residual sums by sqrt 2
    config.model.init_scale = 0.0  # initial scale of each branch's last layer
    config.model.normalization = "InstanceNorm++"  # ncsn*: InstanceNorm, InstanceNorm++, VarianceNorm
    config.model.interpolation = "bilinear"  # ncsn*: bilinear or nearest_neighbor
    config.model.pytorch = False  # ncsn*: compute what the PyTorch releases compute, which differs a little
    config.model.dtype = "float32"  # of the computation: float32 or bfloat16; parameters and norms stay in float32
    config.model.remat = False  # compute residual blocks again in the backward pass: less memory, a third more time
    config.model.latent_dim = 16  # vae: number of latent variables
    config.model.widths = (256,)  # vae: of the encoder's dense layers; the decoder has them in reverse
    config.model.channels = ()  # vae: of convolutions of stride 2 before them, for images
    config.model.variance = "pixel"  # vae: of the decoder, one for every value (pixel) or one for all (scalar)
    config.model.min_std = 1e-3  # vae: added to the decoder's standard deviations

    config.data = ConfigDict()
    # digits, mnist, fashion_mnist, cifar10, tfds:NAME, npz:PATH, folder:PATH, arrayrecord:PATH, toy:NAME
    config.data.name = "cifar10"
    config.data.shape = ()  # height, width, channels; empty: those of the data, which must then be at hand
    config.data.data_dir = ""  # where prepared data sets lie; empty for the default directory
    config.data.centered = True  # pixels scaled to [-1, 1], else to [0, 1]
    config.data.random_flip = False  # mirror training images left-right half of the time
    config.data.workers = 0  # processes per host that read training batches; they pay where images must be decoded
    config.data.prefetch = 2  # batches (times steps_per_dispatch) kept ready on the devices; 0 reads when asked


def _add_training_fields(config: ConfigDict) -> None:
    """How it is trained."""
    config.objective = ConfigDict()
    # denoising score matching, implicit or sliced (or sliced_vr) score matching at the same times, or bound: the
    # variational bound of a chain, or of a vae; it has no weighting and no times to choose
    config.objective.kind = "denoising"
    config.objective.num_projections = 1  # directions per example of sliced score matching
    config.objective.hybrid = 0.0  # kind=bound: mean (n - z)^2 plus this much of the bound, for the variances; 0: bound
    config.objective.weighting = "variance"  # lambda(t): variance (s^2) or likelihood (g^2)
    # training times: uniform, low_discrepancy, levels (num_scales of them) or importance (for weighting=likelihood)
    config.objective.times = "uniform"
    config.objective.t_min = 1e-5  # smallest training time
    config.objective.reduce_mean = True  # mean over the event, else half the sum

    config.optim = ConfigDict()
    config.optim.lr = 2e-4
    config.optim.beta1 = 0.9
    config.optim.beta2 = 0.999
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.0
    config.optim.warmup = 5000  # steps of linear warm-up from 0
    config.optim.schedule = "constant"  # after warm-up: constant or cosine (to 0 at training.num_steps)
    config.optim.grad_clip = 1.0  # global gradient norm; 0 for none
    config.optim.ema_rate = 0.9999
    config.optim.ema_warmup = False  # rate min(ema_rate, (1 + n) / (10 + n)) at step n
    # Relative widths of power-function averages beside that one, such as (0.05, 0.10): any other can be had afterwards
    config.optim.ema_widths = ()
    config.optim.ema_snapshot_every = 0  # steps between snapshots of them; 0 for none

    config.training = ConfigDict()
    config.training.num_steps = 1_300_000
    config.training.batch_size = 128  # over all devices and hosts
    config.training.steps_per_dispatch = 1  # steps per call of the compiled program; more pays on accelerators only
    config.training.accumulate = 1  # parts in which the gradient of a batch is computed, one after another
    config.training.log_every = 50
    config.training.eval_every = 5000  # loss of the averaged parameters on the test split
    config.training.sample_every = 0  # draw what the averaged parameters make of the same noise; 0 for never
    config.training.checkpoint_every = 10_000
    config.training.keep_checkpoints = 3  # the newest
    config.training.keep_every = 0  # and those at multiples of this step; 0 for none
    config.training.keep_best = 0  # and that many with the lowest loss on the test split


def _add_dequantizer_fields(config: ConfigDict) -> None:
    """What --mode=train_dequantizer trains when there is a model: noise that it likes, for a tighter likelihood."""
    config.dequantizer = ConfigDict()
    config.dequantizer.name = "none"  # none (uniform noise) or flowpp (a flow conditioned on the image)
    config.dequantizer.filters = 96  # channels of the networks in its couplings
    config.dequantizer.components = 32  # logistic distributions per mixture
    config.dequantizer.blocks = 2  # of convolution and attention, per coupling
    config.dequantizer.num_flows = 4  # couplings, each of which moves every other column: 2 move them all
    config.dequantizer.heads = 4  # of attention, which divide the filters
    config.dequantizer.context_features = 32  # channels of the network that reads the image
    config.dequantizer.dropout = 0.0
    config.dequantizer.t_min = 1e-5  # smallest time of the bound that it is trained on
    config.dequantizer.offset = True  # whether that bound has the decoder at t_min, one more evaluation of the model
    config.dequantizer.lr = 2e-4  # the rest of the optimiser is that of the model, config.optim
    config.dequantizer.warmup = 5000
    config.dequantizer.ema_rate = 0.99
    config.dequantizer.num_steps = 300_000
    config.dequantizer.batch_size = 128
    config.dequantizer.steps_per_dispatch = 1
    config.dequantizer.accumulate = 1
    config.dequantizer.log_every = 50
    config.dequantizer.eval_every = 5000
    config.dequantizer.checkpoint_every = 10_000
    config.dequantizer.keep_checkpoints = 3
    config.dequantizer.keep_every = 0
    config.dequantizer.keep_best = 0


def _add_measuring_fields(config: ConfigDict) -> None:
    """What is done with a trained model."""
    config.sampling = ConfigDict()
    # with noise euler_maruyama, reverse_diffusion, ancestral (with learned variances, if there are any),
    # ancestral_large, ddim, sde_dpm_solver_{1,2m,3m}, none;
    # without euler, heun, edm_heun, dpm_solver_{1,2s,2m,3m}, unipc_{1,2,3}
    # with as many steps as the error asks for: adaptive (the probability flow), adaptive_sde (with noise)
    config.sampling.predictor = "euler_maruyama"
    config.sampling.noise_scale = 1.0  # of those with noise: 1 the reverse SDE, 0 the probability flow
    config.sampling.eta = 0.0  # noise of ddim: 0 none, 1 ancestral sampling
    config.sampling.churn = 0.0  # noise of edm_heun: relative increase of the noise level before each step
    config.sampling.churn_min = 0.0  # lowest noise-to-signal ratio with churn
    config.sampling.churn_max = 1e30  # highest
    config.sampling.corrector = "none"  # none, langevin or annealed_langevin
    config.sampling.snr = 0.16
    config.sampling.per_sample = False  # langevin: norms per sample, not over the batch; samples then ignore each other
    config.sampling.num_corrections = 1
    config.sampling.corrector_first = False
    config.sampling.num_steps = 1000
    config.sampling.grid = "uniform"  # spacing of the times: uniform, quadratic, log_snr or edm
    config.sampling.rho = 7.0  # of the edm grid
    config.sampling.t_min = 1e-3  # where sampling stops; 1e-5 for VE
    config.sampling.denoising = "tweedie"  # how the noise left at t_min is removed: tweedie, mean or none
    config.sampling.thresholding = "none"  # keep denoised images in their range: none, static (clip) or dynamic
    config.sampling.threshold_quantile = 0.995  # of dynamic thresholding
    config.sampling.tolerance = 1e-5  # of the adaptive predictor, relative and absolute
    config.sampling.sde_rtol = 0.02  # of adaptive_sde
    config.sampling.sde_atol = 0.0078
    config.sampling.joint_steps = False  # of both: the same steps for all samples of a batch, on all devices and hosts
    config.sampling.max_steps = 4096  # of both: attempted steps after which they give up
    config.sampling.num_samples = 64
    config.sampling.batch_size = 64

    config.pareto = ConfigDict()  # --mode=pareto: every solver on every grid at every number of evaluations
    config.pareto.solvers = ("dpm_solver_2m", "unipc_2", "unipc_3", "heun", "ddim", "sde_dpm_solver_2m")
    config.pareto.grids = ("log_snr", "edm", "uniform")
    config.pareto.evals = (5, 8, 12, 16, 24, 32, 64)
    config.pareto.num_samples = 1000  # per setting

    config.plan = ConfigDict()  # --mode=plan
    config.plan.chip = "v5e"  # what will train: v4, v5e, v5p, v6e, a100, h100, or cpu for this machine
    config.plan.topology = ""  # TPUs to compile for without having them, such as 2x2 (needs libtpu); or this machine
    config.plan.headroom = 0.1  # share of the memory that is to stay free


def _add_likelihood_fields(config: ConfigDict) -> None:
    """How the held-out likelihood and its bounds are measured."""
    config.likelihood = ConfigDict()
    config.likelihood.t_min = 1e-5  # time at which the data enter the flow
    config.likelihood.decoder = False  # noise the data as at t_min and add a decoder: a bound on the data themselves
    config.likelihood.num_steps = 0  # of a fixed grid, with new probes at each; 0 for the adaptive solver
    config.likelihood.tolerance = 1e-5  # of the adaptive solver, relative and absolute
    config.likelihood.grid = "log_snr"  # of the fixed grid: uniform, quadratic, log_snr or edm
    config.likelihood.order = 4  # of its predictor, 1 to 5
    config.likelihood.num_probes = 1  # Hutchinson probes per example; 0 for the exact trace
    config.likelihood.probe_kind = "rademacher"  # rademacher or gaussian
    config.likelihood.fresh_probes = True  # on a fixed grid new probes at each time, not the same at all
    config.likelihood.dequantization = "uniform"  # uniform, or variational after --mode=train_dequantizer
    config.likelihood.num_dequantizations = 1  # noise draws per image; their log-likelihoods are averaged
    config.likelihood.importance_weighted = False  # average their likelihoods instead: a closer bound
    config.likelihood.budget_examples = 64  # first examples on which the error of the solver is measured; 0 for none
    config.likelihood.noise_levels = 20  # levels by which the bits and the loss are reported; 0 for no such report
    config.likelihood.bound_times = 0  # noise levels per example for the bound, such as 128; 0 for no bound
    config.likelihood.num_weights = 100  # importance weights per image for the bound of a vae
    config.likelihood.chain_terms = 0  # steps drawn per image for the bound of a chain, an even number; 0 for all steps
    config.likelihood.num_examples = 0  # first examples of the test split; 0 for all
    config.likelihood.batch_size = 128


def _add_evaluation_fields(config: ConfigDict) -> None:
    """What --mode=eval measures of which checkpoints, and of what --mode=stats takes the statistics."""
    config.evaluation = ConfigDict()
    # newest, all, a range 1000:5000, a list 1000,2000, or best: of what was evaluated, else by the loss in training
    config.evaluation.checkpoints = "newest"
    # What tells the best: loss, bits_per_dim or a metric; empty for the first of the metrics, or loss without any
    config.evaluation.best_by = ""
    config.evaluation.likelihood = False  # bits/dim too, as config.likelihood says
    config.evaluation.num_samples = 0  # drawn as config.sampling says, to be compared with data; 0 for none, or from 40
    # frechet, frechet_infinity, kid, precision_recall, density_coverage, inception_score, sliced_wasserstein, energy;
    # empty for the usual ones: frechet, kid, precision_recall of images, the last two of points
    config.evaluation.metrics = ()
    # auto, pixels, classifier-digits, classifier-mnist, inception-2015 (with -pytorch-resize), efficientnet-lite0
    config.evaluation.extractor = "auto"
    config.evaluation.weights = ""  # file of its weights, where they do not come with the package
    config.evaluation.reference = ""  # statistics (.npz) of what to compare with; empty for WORKDIR/statistics.npz
    config.evaluation.reference_split = "train"  # train or test: of which the latter are computed
    config.evaluation.reference_examples = 0  # its first examples; 0 for all
    config.evaluation.keep_features = 10_000  # features kept beside the moments, for metrics that compare examples
