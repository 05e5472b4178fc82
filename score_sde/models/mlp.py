"""A residual multilayer perceptron for vectors: toy densities, tables, latents."""

import flax.linen as nn
from jaxtyping import Array, Float

from score_sde.fields import DEFAULTS
from score_sde.models.dropout import Dropout
from score_sde.models.layers import ACTIVATIONS, SpanEmbedding, TimeEmbedding, check_labels, label_embedding
from score_sde.typing import Labels, Times


class MLP(nn.Module):
    """Residual blocks of two dense layers, each shifted by the noise embedding. See ``docs/fields.md``."""

    features: int = DEFAULTS.model.features
    num_blocks: int = DEFAULTS.model.num_blocks
    dropout: float = DEFAULTS.model.dropout
    embedding: str = DEFAULTS.model.embedding
    fourier_scale: float = DEFAULTS.model.fourier_scale
    activation: str = DEFAULTS.model.activation
    num_classes: int = DEFAULTS.model.num_classes
    spans: bool = False  # whether it is told the time between two times too

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch dim"],
        condition: Times,
        *,
        label: Labels | None = None,
        span: Times | None = None,
        train: bool = False,
    ) -> Float[Array, "batch dim"]:
        """The network output, of the shape of ``x``; labels and spans as in :class:`~score_sde.models.ncsnpp.NCSNpp`.

        Raises:
            UserError: For labels given to a network without classes, and for labels out of range.
        """
        if label is not None:
            check_labels(label, self.num_classes)
        activation = ACTIVATIONS[self.activation]
        width = 4 * (self.features // 4)
        embedding = TimeEmbedding(self.features // 4, self.embedding, activation, self.fourier_scale)(condition)
        if self.num_classes:
            embedding = embedding + label_embedding(self.num_classes, width, label, condition)
        if self.spans:
            embedding = embedding + SpanEmbedding(self.features // 4, activation, name="span")(span, condition)
        embedding = activation(embedding)
        h = nn.Dense(self.features)(x)
        for _ in range(self.num_blocks):
            r = nn.Dense(self.features)(activation(nn.LayerNorm(use_fast_variance=False)(h))) + nn.Dense(self.features)(
                embedding
            )
            r = Dropout(self.dropout)(activation(r), train)
            h = h + nn.Dense(self.features, kernel_init=nn.initializers.zeros)(r)
        last = nn.Dense(x.shape[-1], kernel_init=nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform"))
        return last(activation(nn.LayerNorm(use_fast_variance=False)(h)))
