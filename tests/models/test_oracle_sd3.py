"""MMDiT, its VAE and its text beside torch's diffusers: numbers in small, keys and
shapes at full size (on torch's meta device), one block at full width.

Bounds as in test_oracle_networks: 5e-6, and twice torch's own float32 error against
its float64 where the time's sinusoids are not to blame: of a time near 1000 an ulp of a
frequency is 1e-4 of a phase, and torch itself is as far from the truth.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sd3_folders as folders
from test_oracle_networks import nchw, nhwc, normals, perturbed, relative

from sdsjax.models.loading import hub, mapping
from sdsjax.models.loading.scheduler import read_flow_schedule
from sdsjax.models.loading.sd3 import folder as sd3
from sdsjax.models.loading.weights import check_table
from sdsjax.models.mmdit import JointBlock, Text, position_table
from sdsjax.priors.stable_diffusion3 import encode_texts

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

CONFIG = {
    "sample_size": 16, "patch_size": 2, "in_channels": 4, "num_layers": 4,
    "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 40,
    "caption_projection_dim": 64, "pooled_projection_dim": 24, "out_channels": 4,
    "pos_embed_max_size": 12, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("kind", ["sd35", "sd30"])
def test_transformer(tmp_path, kind):
    plain = {"dual_attention_layers": (), "qk_norm": None} if kind == "sd30" else {}
    oracle = perturbed(diffusers.SD3Transformer2DModel(**{**CONFIG, **plain}), 1.5)
    oracle.save_pretrained(tmp_path / "transformer")
    network = hub.load_component(tmp_path, "transformer")
    z, text, pooled = normals(2, 16, 12, 4), normals(2, 9, 40), normals(2, 24)

    def torch_in(dtype, t):
        parts = (torch.from_numpy(a).to(dtype) for a in (text, pooled, t))
        return nhwc(oracle.to(dtype)(nchw(z, dtype), *parts).sample)

    def ours(network, t):
        told = Text(text, pooled)
        return jax.jit(network.module.apply)({"params": network.params}, z, t, told)

    late, early = (np.array(t, np.float32) for t in ((123.4, 987.0), (0.7, 3.2)))
    assert relative(ours(network, late), torch_in(torch.float64, late)) <= 5e-6
    double, single = (torch_in(d, early) for d in (torch.float64, torch.float32))
    assert relative(ours(network, early), double) <= 2 * relative(single, double)
    half = hub.load_component(tmp_path, "transformer", dtype=jnp.bfloat16)
    own = relative(torch_in(torch.bfloat16, early), double)  # last: it rounds weights
    assert relative(ours(half, early), double) <= 1.5 * own


@pytest.mark.parametrize("config", [folders.SD35, folders.SD30])
def test_full_size_keys_and_shapes(config):
    given = {k: v for k, v in config.items() if not k.startswith("_")}
    with torch.device("meta"):
        oracle = diffusers.SD3Transformer2DModel(**given)
    component = hub.COMPONENTS["transformer"]
    read = component.read_config(dict(oracle.config))
    shapes = hub.shapes_of(component, read)
    table = component.table(read, ())
    flat = check_table(table, shapes, "full size")
    ours = {k: mapping.torch_shape(kind, flat[path].shape) for k, kind, path in table}
    assert ours == {k: tuple(v.shape) for k, v in oracle.state_dict().items()}


def test_full_size_vae_keys_and_shapes():
    given = {k: v for k, v in folders.SD35_VAE.items() if not k.startswith("_")}
    with torch.device("meta"):
        oracle = diffusers.AutoencoderKL(**given)
    component = hub.COMPONENTS["vae"]
    read = component.read_config(dict(oracle.config))
    table = component.table(read, ())
    flat = check_table(table, hub.shapes_of(component, read), "vae")
    ours = {k: mapping.torch_shape(kind, flat[path].shape) for k, kind, path in table}
    assert ours == {k: tuple(v.shape) for k, v in oracle.state_dict().items()}


def test_a_block_at_full_width():
    """The first of 3.5-medium's: 24 heads of 64, dual attention, normed heads."""
    from diffusers.models.attention import JointTransformerBlock

    width = 1536
    oracle = JointTransformerBlock(
        width, 24, 64, qk_norm="rms_norm", use_dual_attention=True
    )
    perturbed(oracle, 1.0)
    one = {**folders.SD35, "num_layers": 2, "dual_attention_layers": [0]}
    read = hub.COMPONENTS["transformer"].read_config(one)
    params: dict = {}
    state = {f"transformer_blocks.0.{k}": v for k, v in oracle.state_dict().items()}
    for key, kind, path in hub.COMPONENTS["transformer"].table(read, ()):
        if not key.startswith("transformer_blocks.0."):
            continue
        node = params
        for part in path[1:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = mapping.to_flax(kind, state.pop(key).numpy())
    assert not state
    x, text, time = normals(1, 64, width), normals(1, 21, width), normals(1, width)

    def torch_in(dtype):
        parts = (torch.from_numpy(a).to(dtype) for a in (x, text, time))
        return [out.double().numpy() for out in oracle.to(dtype)(*parts)]

    single, double = torch_in(torch.float32), torch_in(torch.float64)
    block = JointBlock(24, True, dual=True)
    found = jax.jit(block.apply)({"params": params}, x, text, time)
    for ours, own, truth in zip(found, single[::-1], double[::-1]):
        assert relative(ours, truth) <= max(2 * relative(own, truth), 1e-6)


def test_positions_and_noise_levels_are_those_of_the_published_classes(tmp_path):
    oracle = diffusers.SD3Transformer2DModel(**CONFIG)
    read = hub.COMPONENTS["transformer"].read_config(dict(oracle.config))
    table = oracle.pos_embed.pos_embed.numpy()
    np.testing.assert_allclose(position_table(read), table, atol=1e-6)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.save_pretrained(tmp_path / "scheduler")
    schedule, _ = read_flow_schedule(tmp_path / "scheduler")
    ours = [schedule.network_time(t) for t in range(0, 999, 37)]
    theirs = scheduler.timesteps.numpy()[::-1][0:999:37]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_text_is_the_published_pipeline_s(tmp_path):
    """encode_prompt of StableDiffusion3Pipeline on the same folder, with T5."""
    root = folders.write_sd3_folder(tmp_path)
    clips = [
        transformers.CLIPTextModelWithProjection.from_pretrained(root / name)
        for name in ("text_encoder", "text_encoder_2")
    ]
    tokenizers = [
        transformers.CLIPTokenizer.from_pretrained(root / name)
        for name in ("tokenizer", "tokenizer_2")
    ]
    t5 = transformers.T5EncoderModel.from_pretrained(root / "text_encoder_3")
    text = "a red mug, front view"
    encoders = sd3.load_text(root, True, variant=None, dtype=jnp.float32)
    ours = encode_texts(encoders, [text], folders.CONTEXT)
    states, pooled = [], []
    for clip, tokenizer in zip(clips, tokenizers):
        ids = tokenizer(
            [text], padding="max_length", max_length=folders.LENGTH,
            truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip
        out = clip(ids, output_hidden_states=True)
        states.append(out.hidden_states[-2])
        pooled.append(out.text_embeds)
    clip = torch.nn.functional.pad(torch.cat(states, -1), (0, folders.CONTEXT - 24))
    ids = torch.from_numpy(encoders.third[1]([text]).ids)  # tokens: test_oracle_if
    more = t5(ids)[0]
    whole = torch.cat([clip, more], -2).numpy()
    assert whole.shape == (1, folders.LENGTH + 256, folders.CONTEXT)
    assert relative(ours.states, np.float64(whole)) <= 5e-6
    assert relative(ours.pooled, np.float64(torch.cat(pooled, -1).numpy())) <= 5e-6
