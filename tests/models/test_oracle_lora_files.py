"""LoRA files against diffusers and peft: what they merge of the same adapters."""

import numpy as np
import pytest
from test_oracle_sdxl import pipeline  # noqa: F401 (a fixture)

from sdsjax.models.loading import hub, mapping
from sdsjax.models.loading.lora_files.merge import with_loras
from sdsjax.models.loading.sdxl.folder import SECOND_ENCODER, load_sdxl

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
save_file = pytest.importorskip("safetensors.torch").save_file

pytestmark = pytest.mark.oracle

COMPONENTS = {**hub.COMPONENTS, "text_encoder_2": SECOND_ENCODER}
TARGETS = {
    "unet": ["to_q", "to_k", "to_out.0", "proj_in", "conv1", "ff.net.2"],
    "text_encoder": ["q_proj", "out_proj", "fc1"],
    "text_encoder_2": ["v_proj", "fc2"],
}
PREFIXES = {
    "unet": "lora_unet_",
    "text_encoder": "lora_te1_",
    "text_encoder_2": "lora_te2_",
}
RANK, ALPHA, WEIGHT = 3, 6, 0.8


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        torch.manual_seed(0)
        yield


def adapted(model, name, **options):
    """Random adapters put into a model by peft; their state."""
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=TARGETS[name],
        init_lora_weights=False, **options,
    )  # fmt: skip
    peft.inject_adapter_in_model(config, model)
    return peft.get_peft_model_state_dict(model)


def spelled(name, key, style):
    """A key of peft's state as it stands in a file."""
    if name == "text_encoder" and not key.startswith("text_model."):
        key = f"text_model.{key}"
    if style == "peft":
        return f"{name}.{key}"
    layer, _, part = key.removesuffix(".weight").rpartition(".")
    role = {"lora_A": "lora_down", "lora_B": "lora_up"}[part]
    return f"{PREFIXES[name]}{layer.replace('.', '_')}.{role}.weight"


def write(path, name, state, style):
    """A file of one network's adapters; peft's own form keeps no alpha."""
    tensors = {spelled(name, k, style): v.contiguous() for k, v in state.items()}
    if style == "kohya":
        layers = {key.split(".")[0] for key in tensors}
        tensors |= {f"{layer}.alpha": torch.tensor(float(ALPHA)) for layer in layers}
    save_file(tensors, path)
    return WEIGHT if style == "kohya" else WEIGHT * ALPHA / RANK


def merged_by_peft(model):
    """A model's kernels with its adapters merged at WEIGHT."""
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scale_layer(WEIGHT)
            module.merge()
    return {
        key.replace(".base_layer", ""): value
        for key, value in model.state_dict().items()
        if ".lora_" not in key
    }


def same_kernels(found, plain, component, state, layers):
    """Every kernel equals the oracle's, and so many of them were changed."""
    table = component.table(found.config, list(state))
    changed = 0
    for key, kind, path in table:
        if kind in ("conv", "linear"):
            kernel, before = at(found.params, path), at(plain.params, path)
            expected = mapping.to_flax(kind, state[key].numpy())
            np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)
            changed += bool((kernel != before).any())
    assert changed == layers > 0


def at(params, path):
    for name in path:
        params = params[name]
    return np.asarray(params)


@pytest.mark.parametrize("style", ["peft", "kohya"])
def test_merged_is_what_peft_merges(tmp_path, pipeline, style):  # noqa: F811
    oracle, folder = pipeline
    plain = load_sdxl(folder)
    for name in TARGETS:
        model = getattr(oracle, name)
        state = adapted(model, name)
        file = tmp_path / f"{name}.safetensors"
        weight = write(file, name, state, style)
        ours = with_loras(plain, [(str(file), weight)])
        merged = merged_by_peft(model)
        parts = getattr(ours, name), getattr(plain, name)
        same_kernels(*parts, COMPONENTS[name], merged, len(state) // 2)


RECORDED = {
    "use_rslora": True,
    "alpha_pattern": {"attn1.to_q": 9, r"down_blocks\.1\..*\.to_k": 2},
    "rank_pattern": {"attn2.to_q": 5},
}


@pytest.mark.parametrize("options", [{}, RECORDED], ids=["plain", "patterns"])
def test_merged_is_what_peft_merges_of_its_own_folder(tmp_path, pipeline, options):  # noqa: F811
    """save_pretrained: adapter_model.safetensors, with adapter_config.json beside."""
    oracle, folder = pipeline
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=TARGETS["unet"],
        init_lora_weights=False, **options,
    )  # fmt: skip
    adapter = peft.get_peft_model(oracle.unet, config)
    adapter.save_pretrained(tmp_path)
    plain = load_sdxl(folder)
    file = str(tmp_path / "adapter_model.safetensors")
    ours = with_loras(plain, [(file, WEIGHT)])
    layers = len(peft.get_peft_model_state_dict(adapter)) // 2
    merged = merged_by_peft(oracle.unet)
    same_kernels(ours.unet, plain.unet, COMPONENTS["unet"], merged, layers)


@pytest.mark.parametrize("style", ["diffusers", "patterns", "kohya"])
def test_merged_is_what_diffusers_fuses(tmp_path, pipeline, style):  # noqa: F811
    """Its own files, with the record of alpha that it keeps, and kohya's."""
    oracle, folder = pipeline
    model = oracle.unet
    state = adapted(model, "unet", **(RECORDED if style == "patterns" else {}))
    if style == "kohya":
        file = tmp_path / "kohya.safetensors"
        write(file, "unet", state, style)
    else:
        config = model.peft_config["default"].to_dict()
        file = tmp_path / "pytorch_lora_weights.safetensors"
        oracle.save_lora_weights(
            tmp_path, unet_lora_layers=state, unet_lora_adapter_metadata=config
        )
    plain = load_sdxl(folder)
    ours = with_loras(plain, [(str(file), WEIGHT)])
    fresh = diffusers.StableDiffusionXLPipeline.from_pretrained(folder)
    fresh.load_lora_weights(str(tmp_path), weight_name=file.name)
    fresh.fuse_lora(components=["unet"], lora_scale=WEIGHT)
    fused = {
        key.replace(".base_layer", ""): value
        for key, value in fresh.unet.state_dict().items()
        if ".lora_" not in key
    }
    parts = ours.unet, plain.unet
    same_kernels(*parts, COMPONENTS["unet"], fused, len(state) // 2)
