"""Bits made real: an arithmetic coder with the decoder over gray levels spends what the bound counts for it."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from score_sde.likelihood import Quantization, level_bound, log_level_probability
from score_sde.sdes import VDM

QUANTIZATION = Quantization(num_grey_levels=17)
PRECISION = 24  # bits of a frequency
log_probability = jax.jit(log_level_probability)


def frequencies(probabilities):
    """Upper ends of the shares of all levels, in whole parts of 2^24, none of them empty."""
    parts = np.maximum(np.round(probabilities * 2**PRECISION).astype(np.int64), 1)
    parts[np.argmax(parts)] += 2**PRECISION - parts.sum()
    return [0, *map(int, np.cumsum(parts))]


def encode(symbols, tables):
    """The shortest binary fraction, as its digits, whose continuations all lie in the interval of the symbols."""
    low, width = 0, 1  # in units of 2^-(24 symbols so far)
    for symbol, table in zip(symbols, tables, strict=True):
        low, width = (low << PRECISION) + width * table[symbol], width * (table[symbol + 1] - table[symbol])
    digits = PRECISION * len(tables)
    for length in range(digits + 2):
        scale = 1 << digits
        code = -((-low << length) // scale)  # the first fraction of this length that is not below
        if (code + 1) * scale <= (low + width) << length:
            return [code >> (length - 1 - i) & 1 for i in range(length)]
    raise AssertionError("an interval holds a fraction of one digit more than its own")


def decode(bits, tables):
    """The symbols of such a fraction."""
    digits = PRECISION * len(tables) + 2
    code = sum(bit << (digits - 1 - i) for i, bit in enumerate(bits))
    low, width, symbols = 0, 1 << digits, []
    for table in tables:
        width >>= PRECISION  # of a whole part; the rest is what the later symbols divide
        symbol = next(k for k in range(len(table) - 1) if code < low + width * table[k + 1])
        symbols.append(symbol)
        low, width = low + width * table[symbol], width * (table[symbol + 1] - table[symbol])
    return symbols


def decoder_tables(xt, mean_coeff, std):
    """For every pixel of every image: the frequencies of all levels, given the noisy image alone."""
    middles = QUANTIZATION.midpoints(jnp.arange(17))
    logs = [log_probability(xt, jnp.full_like(xt, middle), mean_coeff, std, QUANTIZATION) for middle in middles]
    shares = np.exp(np.stack(logs, axis=-1, dtype=np.float64))
    np.testing.assert_allclose(shares.sum(axis=-1), 1.0, atol=1e-5)
    return [[frequencies(pixel) for pixel in image] for image in shares]


def test_a_coder_with_the_decoder_spends_the_bits_of_the_bound_and_gives_the_digits_back():
    """Twenty digits, six noisy versions of each; a code ends in a whole bit, two more than its interval at most."""
    sde, t_min = VDM(), 0.55
    levels = load_digits().images[:20].reshape(20, 64).astype(np.int32)
    mean_coeff, std = (np.float32(part) for part in sde.marginal(jnp.float32(t_min)))
    x, lengths = QUANTIZATION.midpoints(jnp.asarray(levels)), np.zeros((6, 20))
    for draw, row in enumerate(lengths):
        xt = mean_coeff * x + std * jax.random.normal(jax.random.key(draw), x.shape)
        nats = -np.asarray(log_probability(xt, x, mean_coeff, std, QUANTIZATION)).sum(axis=1, dtype=np.float64)
        for i, tables in enumerate(decoder_tables(xt, mean_coeff, std)):
            bits = encode(levels[i], tables)
            assert decode(bits, tables) == levels[i].tolist()
            row[i] = len(bits)
            assert -0.01 < row[i] - nats[i] / np.log(2.0) < 2.01
    bound = level_bound(
        jax.random.key(0), sde, lambda x, t: 0.0 * x, jnp.asarray(levels), QUANTIZATION, t_min=t_min, num_times=2
    )
    counted = float(bound.offset.mean()) / np.log(2.0)
    spread = lengths.std(axis=0, ddof=1).mean()  # of one noise; both means are of at least this many
    assert 20.0 < counted < 200.0
    assert abs(lengths.mean() - 1.0 - counted) < 1.0 + 4.0 * spread * np.sqrt(2.0 / lengths.size)
