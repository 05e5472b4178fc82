"""The card of a model that is handed on: its data, process and numbers, with the front matter of model hubs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from score_sde.data import DataRecord
from score_sde.diffusions import CONTINUOUS
from score_sde.evaluation.programs import Exported
from score_sde.fields import Settings
from score_sde.files import read_json
from score_sde.report.quantities import judged, quantities
from score_sde.report.rendering import render
from score_sde.report.run import read_run
from score_sde.typing import Params


def model_card(
    settings: Settings,
    data: DataRecord,
    params: Params,
    step: int,
    *,
    title: str = "",
    place: Path | None = None,
    programs: Sequence[Exported] = (),
    given: str = "",
) -> str:
    """The text of ``README.md``; the numbers are those in the directory of the run, if there is one.

    ``given`` names the network of a program, which the configuration does not.
    """
    run = None if place is None else read_run(place)
    found = [] if run is None else judged(quantities(run))
    files, labeled = {each.file for each in found}, settings.conditioning.classes
    return render(
        "card.md",
        license=settings.export.license,
        pipeline="unconditional-image-generation" if len(data.shape) == 3 else "",
        tags=["diffusion", "score-based-generative-model", "jax", settings.sde.name, given or settings.model.name],
        title=title or f"{data.name}, {settings.sde.name}",
        description=_description(settings, data),
        facts=list(_facts(settings, data, params, step, place, given)),
        given=given,
        labeled=labeled,
        average_only=settings.export.average_only,
        stored=_stored(params, settings.export.dtype),
        programs=programs,
        quantities=found,
        commands=[] if run is None or not files else run.commands(),
    )


def _description(settings: Settings, data: DataRecord) -> str:
    kind = "class-conditional diffusion model" if settings.conditioning.classes else "diffusion model"
    return f"A {kind} of {data.name}, trained with score_sde."


def _stored(params: Params, dtype: str) -> str:
    """How exactly the parameters are stored."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    exact = all(np.array_equal(array, array.astype(dtype)) for array in arrays)
    return f"The parameters are stored in {dtype}" + ("." if exact else ", and rounded to it.")


def _facts(
    settings: Settings, data: DataRecord, params: Params, step: int, place: Path | None, given: str
) -> Iterator[tuple[str, str]]:
    shape = "x".join(map(str, data.shape))
    levels = "continuous values" if data.num_levels is None else f"{data.num_levels} gray levels"
    yield "Data", f"{data.name}: examples of shape {shape}, {levels}"
    if data.standardization is not None:
        yield "Scale", "standardized column by column; samples and likelihoods are in the units of the data"
    for name, split in data.splits.items():
        yield f"The {name} split", f"{split.num_examples:,} examples, fingerprint {split.contents[:12]}"
    if settings.conditioning.classes:
        yield "Classes", f"{data.num_classes}"
    chain = "" if settings.sde.schedule == CONTINUOUS else f", {settings.parameterization.num_scales} levels"
    yield "Process", f"{settings.sde.name}, {settings.sde.schedule}{chain}"
    yield (
        "Network",
        f"{given or settings.model.name}, {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters",
    )
    yield "Output", settings.parameterization.output
    start = None if place is None else read_json(place / "init.json")
    if start is not None:
        yield "Started from", f"{start.get('from')} of step {start.get('step')}, trained on {start.get('data')}"
    yield "Steps trained", f"{step:,}, batches of {settings.training.batch_size}"
    sampling = settings.sampling
    yield "Sampler", f"{sampling.predictor}, {sampling.num_steps} steps on the {sampling.grid} grid"
