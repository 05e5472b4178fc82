"""Variational diffusion on MNIST (28x28, 256 gray levels): likelihood without dequantization, on two cores.

python -m score_sde --config=configs/vdm/mnist.py --workdir=runs/vdm_mnist --mode=train --config.data.data_dir=D
python -m score_sde --config=configs/vdm/mnist.py --workdir=runs/vdm_mnist --mode=likelihood --config.data.data_dir=D
"""

from score_sde.config import ConfigDict, default_config


def get_config() -> ConfigDict:
    """Kingma et al. 2021 in a size for CPUs, with a network that predicts gray levels."""
    config = default_config()
    config.data.name = "mnist"

    config.sde.name = "vdm"
    config.parameterization.output = "levels"
    config.parameterization.condition_on = "log_noise"
    config.objective.weighting = "likelihood"
    config.objective.times = "low_discrepancy"  # uniform in log-SNR, so importance-sampled
    config.objective.levels = "midpoints"

    config.model.features = 32
    config.model.channel_multipliers = (1, 2, 2)
    config.model.num_blocks = 1
    config.model.attention_resolutions = ()
    config.model.input_frequencies = (0, 1, 2, 3, 4, 5, 6)  # of 128 gray levels down to 2
    config.model.damped_waves = True  # where noise hides them they are noise themselves, in derivatives above all
    config.model.dropout = 0.0

    config.conditioning.classes = True  # the bound of image and class bounds the image's too

    config.optim.name = "muon"
    config.optim.lr = 3e-3
    config.optim.beta2 = 0.99
    config.optim.weight_decay = 0.01
    config.optim.warmup = 200
    config.optim.schedule = "cosine"
    config.optim.ema_rate = 0.9995
    config.optim.ema_warmup = True

    config.training.num_steps = 26_000
    config.training.batch_size = 16  # of equal cost, many small batches learn more than few large ones
    config.training.log_every = 100
    config.training.eval_every = 13_000
    config.training.checkpoint_every = 500

    config.sampling.predictor = "unipc_3"
    config.sampling.grid = "log_snr"
    config.sampling.num_steps = 32
    config.sampling.t_min = 1e-5
    config.likelihood.dequantization = "truncated_normal"
    config.likelihood.num_steps = 64
    config.likelihood.flow_examples = 256
    config.likelihood.bound_times = 32
    return config
