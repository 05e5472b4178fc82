"""The interface of a notebook or a script: a model from arrays, from a folder or by its name, as one object."""

from score_sde.notebook.fitting import fit
from score_sde.notebook.likelihood import Likelihood
from score_sde.notebook.loading import load
from score_sde.notebook.model import Model

__all__ = ["Likelihood", "Model", "fit", "load"]
