"""The scale of a LoRA's change, by what files record of how it was made.

alpha / r, r the rank, or alpha / sqrt(r) of a rank-stabilised one (`use_rslora`:
Kalajdzievski 2023, arXiv 2312.03732). alpha is r where nothing is recorded: in a tensor
of the layer (kohya), in the file's metadata (diffusers) or in an adapter_config.json
beside it (peft).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from sdsjax.models.loading.errors import LoaderError

METADATA = "lora_adapter_metadata"  # diffusers' key of its record
PEFT_FILE, PEFT_RECORD = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."


def scaling_of(path: Path) -> Callable[[str, int, float | None], float]:
    """Makes (layer's name, its rank, alpha in a tensor or None) -> the scale.

    Raises LoaderError for a record that cannot be read, or of what is no plain LoRA.
    """
    records = _records(path)
    for record in records.values():
        if record.get("use_dora"):
            raise LoaderError(
                f"{path}: made with use_dora, a DoRA, which is not implemented"
            )

    def scale(name: str, rank: int, alpha: float | None) -> float:
        network, _, layer = name.partition(".")
        if name.startswith(PEFT_PREFIX):
            network, layer = "", name.removeprefix(PEFT_PREFIX)
        record = records.get(network, {})
        if alpha is None:
            alpha = _alpha(path, record, layer, rank)
        return alpha / (rank**0.5 if record.get("use_rslora") else rank)

    return scale


def _alpha(path: Path, record: dict[str, Any], layer: str, rank: int) -> float:
    found = record.get("lora_alpha", rank)
    try:
        for pattern, alpha in (record.get("alpha_pattern") or {}).items():
            # as peft has it: a pattern of the name's end
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", layer):
                found = alpha
                break
        return float(found)
    except (TypeError, ValueError, AttributeError, re.error):
        raise LoaderError(
            f"{path}: its record of alpha for {layer} cannot be read: {found!r}"
        ) from None


def _records(path: Path) -> dict[str, dict[str, Any]]:
    """What is recorded of each network, "" for a file of one network, by peft."""
    beside = path.with_name(PEFT_RECORD)
    try:
        with safe_open(str(path), "np") as file:
            said = json.loads((file.metadata() or {}).get(METADATA, "{}"))
        records: dict[str, dict[str, Any]] = {}
        for key, value in said.items():
            network, _, name = key.partition(".")
            records.setdefault(network, {})[name] = value
        if path.name == PEFT_FILE and beside.is_file():
            records[""] = dict(json.loads(beside.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise LoaderError(
            f"{path}: its record of how it was made is not readable as JSON ({error})"
        ) from None
    return records
