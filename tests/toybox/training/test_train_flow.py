"""The recipe of toybox-flow: its loss, its folder, and a run that is stopped."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax import sample
from sdsjax.cli.checks import resolve
from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.models.mmdit import Text
from sdsjax.priors import stable_diffusion3
from sdsjax.toybox.__main__ import main
from sdsjax.toybox.scoring import card_flow
from sdsjax.toybox.training import fit, train_flow
from sdsjax.toybox.training.train_prior import stratified_times, word_tokenizer

HURRY = {"xla_backend_optimization_level": 0}


def drawn_like(shapes):
    """Random parameters; nothing is compiled."""
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda leaf: draw(0, 0.1, leaf.shape).astype("f4"), shapes)


@pytest.fixture(scope="module")
def params():
    """Of the shapes that the training begins with."""
    return drawn_like(jax.eval_shape(lambda: train_flow.initial_params(0)))


def test_sizes(params):
    vae = hub.load_component("toybox-sd", "vae").params
    trained, all_of = (
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (params["transformer"], (params, vae))
    )
    assert 2e6 < trained < 4e6
    assert 2 * all_of < 7.95e6  # bytes, float16; with its headers under 8 MB


def encode(variables, x, method):
    """Stands for the VAE, which is the slow test's: scaled means of eight by eight."""
    assert method == "encode"
    small = jnp.mean(x.reshape(len(x), 8, 8, 8, 8, 3), (2, 4, 5))
    return small[..., None] * variables["params"], None


def test_the_loss_is_the_square_of_the_velocity_s_error(monkeypatch):
    """By hand on one batch, from what the parts are called on; of one block.

    What it is told of a text is a table's, by what the text encoders stand for; their
    own words meet the prior's below."""
    shallow = train_flow.TRANSFORMER._replace(layers=1)
    monkeypatch.setattr(train_flow, "TRANSFORMER", shallow)
    transformer = dict(hub.param_shapes("transformer", shallow))
    del transformer["pos_embed"]
    params = drawn_like({"transformer": transformer})
    tokens, ids = word_tokenizer(), word_tokenizer()(["a red mug"])
    rows = np.random.default_rng(1).normal(size=(tokens.vocab_size, shallow.context))
    params["text"] = rows.astype("f4")

    def told_of(params, ids):
        states = params["text"][ids]
        return Text(states, states.mean(1)[:, : shallow.pooled])

    monkeypatch.setattr(train_flow, "told_of", told_of)
    config = hub.load_component("toybox-sd", "vae").config
    scales = np.float32([3.0, -2.0, 1.0, 4.0])
    vae = hub.Network(SimpleNamespace(apply=encode), scales, config)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype("f4")
    schedule, key = NoiseSchedule.flow_matching(shift=1.0), jax.random.key(3)

    def by_hand():
        mean, _ = encode({"params": scales}, x, "encode")
        z = config.scaling_factor * mean
        key_t, key_noise = jax.random.split(key)
        s = (stratified_times(key_t, 1, 1000) + 1) / 1000
        eps = jax.random.normal(key_noise, z.shape)
        module = train_flow.MMDiT(train_flow.TRANSFORMER)
        table = train_flow.position_table(train_flow.TRANSFORMER)
        own = {"params": {**params["transformer"], "pos_embed": table}}
        told = told_of(params, ids)
        v = module.apply(own, (1 - s) * z + s * eps, 1000.0 * s, told)
        return jnp.mean((v - (eps - z)) ** 2)

    loss = train_flow.flow_loss(vae, schedule)
    both = jax.jit(
        lambda p: (loss(p, scales, (x, ids), key)[0], by_hand()),
        compiler_options=HURRY,
    )
    np.testing.assert_allclose(*both(params), rtol=1e-4)


def test_what_is_written_is_a_prior(params, tmp_path, monkeypatch):
    """Found by its folder, without T5 or any of its tokens, told what it was trained
    on."""
    table = jax.jit(train_flow.position_table, static_argnums=0)
    monkeypatch.setattr(train_flow, "position_table", table)
    out = tmp_path / "toybox-flow"
    vae = hub.load_component("toybox-sd", "vae")
    train_flow.write_flow(out, vae, 1.0, params)
    assert resolve("ssd", {"prior.folder": str(out)}).prior.name == "stable_diffusion3"
    source = stable_diffusion3.load(str(out), "a red mug", view_prompts=False)
    assert source.image_shape == (64, 64, 3)
    told = jax.jit(train_flow.told_of)(params, word_tokenizer()(["a red mug"]))
    found = source.params.states.cond
    assert found.states.shape == (6, *told.states.shape[1:])
    np.testing.assert_allclose(found.states[-1], told.states[0], atol=5e-3)
    np.testing.assert_allclose(found.pooled[-1], told.pooled[0], atol=5e-3)
    assert source.bind(source.params).schedule.straight


def test_another_vae_is_refused(tmp_path, monkeypatch, capsys):
    config = hub.load_component("toybox-sd", "vae").config._replace(latent_channels=16)
    odd = hub.Network(None, None, config)
    monkeypatch.setattr(train_flow.hub, "load_component", lambda *_: odd)
    flags = ["--work", str(tmp_path), "--out", str(tmp_path / "out"), "--vae", "x"]
    assert main(["train", "flow", *flags]) == 2
    assert "16 channels; the recipe takes 16 and 4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_few_steps_stopped_and_continued(tmp_path, monkeypatch):
    """Two steps and then a third are three steps, bit for bit; and it can be drawn."""
    shallow = train_flow.TRANSFORMER._replace(layers=1)
    monkeypatch.setattr(train_flow, "TRANSFORMER", shallow)
    small = ["--singles=1", "--pairs=1", "--batch=4"]
    cards = []  # a thousand samples each
    monkeypatch.setattr(card_flow, "write_card", lambda out, *_: cards.append(out))

    def train(work, steps):
        out = tmp_path / work / "out"
        flags = ["--work", str(tmp_path / work), "--out", str(out), f"--steps={steps}"]
        assert main(["train", "flow", *flags, *small]) == 0
        return out

    batches = train_flow.captioned_batches

    def interrupted(*arguments):
        batch_at = batches(*arguments)

        def until_two(step):
            if step == 2:
                raise KeyboardInterrupt
            return batch_at(step)

        return until_two

    with monkeypatch.context() as patch:
        patch.setattr(fit, "SAVE_EVERY", -1.0)  # at every step
        patch.setattr(train_flow, "captioned_batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("stopped", 3)
    a, b = train("stopped", 3), train("whole", 3)
    assert cards == [a, b]
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        file = next((a / name).glob("*.safetensors")).relative_to(a)
        assert (a / file).read_bytes() == (b / file).read_bytes()
    picture = tmp_path / "samples.png"
    drawn = ["--sets=1", "--views=1", "--steps=2", f"--out={picture}"]
    assert sample.main(["a red mug", f"--prior={a}", *drawn]) == 0
    assert picture.is_file()
