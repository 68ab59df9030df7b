"""Reads how a network was trained from a scheduler folder."""

from pathlib import Path

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.weights import read_json

PREDICTION_TYPES = ("epsilon", "v_prediction")
# Samplers of variance-preserving diffusion: whatever they do, the UNet was trained by
# the betas in their file. Others (flow matching, consistency, EDM) mean other noise.
SCHEDULERS = (
    *("DDPM", "DDIM", "DDIMInverse", "DDIMParallel", "DDPMParallel", "PNDM"),
    *("LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete"),
    *("KDPM2Discrete", "KDPM2AncestralDiscrete", "DEISMultistep", "UniPCMultistep"),
    *("DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep"),
    *("DPMSolverSDE", "SASolver", "LCM", "TCD"),
)


def read_schedule(folder: Path) -> tuple[NoiseSchedule, str]:
    """Reads scheduler_config.json: (schedule, "epsilon" or "v_prediction").

    Only how the UNet was trained is read; the file's sampler settings are not. Raises
    LoaderError for a schedule that is not implemented.
    """
    path = Path(folder) / "scheduler_config.json"
    config = read_json(path)

    def refuse(key, expected):
        raise LoaderError(f"{path}: {key} = {config.get(key)!r}; expected {expected}")

    name = config.get("_class_name")
    known = name is None or str(name).removesuffix("Scheduler") in SCHEDULERS
    if not known:
        refuse(
            "_class_name",
            "a scheduler of variance-preserving diffusion, such as DDIMScheduler or "
            "EulerDiscreteScheduler (flow matching and others are not implemented)",
        )
    for key in ("trained_betas", "rescale_betas_zero_snr", "use_flow_sigmas"):
        if config.get(key) not in (None, False):
            refuse(key, "none: it is not implemented")
    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        refuse("prediction_type", " or ".join(PREDICTION_TYPES))
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or steps < 1:
        refuse("num_train_timesteps", "a positive integer")
    # the defaults of the published scheduler classes
    kind = config.get("beta_schedule", "linear")
    if kind == "squaredcos_cap_v2":
        return NoiseSchedule.squaredcos_cap_v2(steps), prediction_type
    betas = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if not all(type(b) in (int, float) and 0 < b < 1 for b in betas):
        refuse("beta_start", f"0 < beta_start, beta_end < 1; they are {betas}")
    if kind == "linear":
        return NoiseSchedule.linear(steps, *betas), prediction_type
    if kind == "scaled_linear":
        return NoiseSchedule.scaled_linear(steps, *betas), prediction_type
    return refuse("beta_schedule", "scaled_linear, linear or squaredcos_cap_v2")


FLOW = "FlowMatchEulerDiscreteScheduler"
# other noise levels than shift and num_train_timesteps say
SPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
# a shift that follows the picture's size, as Flux has
DYNAMIC = "use_dynamic_shifting"


def read_flow_schedule(folder: Path) -> tuple[NoiseSchedule, str]:
    """Reads scheduler_config.json of flow matching: (schedule, "v_prediction").

    Raises LoaderError for another scheduler, or one whose noise levels depend on the
    picture's size.
    """
    path = Path(folder) / "scheduler_config.json"
    config = read_json(path)

    def refuse(key, value, expected):
        raise LoaderError(f"{path}: {key} = {value!r}; expected {expected}")

    name = config.get("_class_name")
    if name != FLOW:
        refuse("_class_name", name, f"{FLOW}: Stable Diffusion 3 is flow matching")
    for key in (DYNAMIC, *SPACED):
        if config.get(key) not in (None, False):
            refuse(key, config[key], "none: it is not implemented")
    steps, shift = config.get("num_train_timesteps", 1000), config.get("shift", 1.0)
    if type(steps) is not int or steps < 2:
        refuse("num_train_timesteps", steps, "an integer, 2 or more")
    if type(shift) not in (int, float) or not 0 < shift < float("inf"):
        refuse("shift", shift, "a positive number")
    return NoiseSchedule.flow_matching(steps, float(shift)), "v_prediction"
