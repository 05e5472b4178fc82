r"""DDPM++ on the classes of scikit-learn's handwritten digits under the VP SDE: minutes on a laptop's CPU.

python -m score_sde --config=configs/vp/digits_classes.py --workdir=runs/classes --mode=demo
python -m score_sde --workdir=runs/classes --mode=sample --config.conditioning.labels="(3,7)" \
    --config.conditioning.scale=2.0
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The run without labels, and a network that is told the digit in nine of ten training examples."""
    config = from_file(Path(__file__).with_name("digits_ddpmpp.py"))
    config.conditioning.classes = True
    # A classifier of noisy digits, of --mode=train_classifier.
    config.classifier.widening = 2
    config.classifier.num_blocks = 1
    config.classifier.batch_size = 64
    config.classifier.lr = 2e-3
    config.classifier.warmup = 50
    config.classifier.num_steps = 800
    return config
