"""Writes deepfloyd.npz: answers of torch's diffusers and transformers in float64, and a
small spiece.model with the ids that SentencePiece gives.

Run once, with the `oracle` extra and sentencepiece:
python tests/goldens/make_deepfloyd.py
Weights and inputs are not stored: tests/models/fixed_deepfloyd.py makes them anew.
"""

import contextlib
import io
import random
import sys
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import sentencepiece
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))

import fixed_deepfloyd as fixed  # noqa: E402

LENGTH = 24


def fill(model):
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = torch.from_numpy(fixed.tensor(key, tuple(value.shape)))
    model.load_state_dict(state)
    return model.eval().double()


def networks():
    a = fixed.inputs()
    unet = fill(diffusers.UNet2DConditionModel(**fixed.UNET))
    z = torch.from_numpy(a["z"].transpose(0, 3, 1, 2).copy()).double()
    text = torch.from_numpy(a["text"]).double()
    out = unet(z, torch.from_numpy(a["t"]), text).sample
    encoder = fill(transformers.T5EncoderModel(transformers.T5Config(**fixed.T5)))
    ids, mask = torch.from_numpy(a["ids"]), torch.from_numpy(a["mask"])
    states = encoder(ids, attention_mask=mask).last_hidden_state
    return {
        "unet": out.detach().numpy().transpose(0, 2, 3, 1).astype(np.float32),
        "t5": states.detach().numpy().astype(np.float32),
    }


def tokens():
    random.seed(0)
    words = fixed.WORDS.split()
    lines = [" ".join(random.choices(words, k=8)) for _ in range(400)]
    model = io.BytesIO()
    # the model keeps the path of the rules: a relative one is the same everywhere
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        rules = Path("rules.tsv")
        code = [" ".join(f"{ord(c):X}" for c in text) for text in fixed.RULES]
        into = [" ".join(f"{ord(c):X}" for c in text) for text in fixed.RULES.values()]
        table = (f"{a}\t{b}\n" for a, b in zip(code, into, strict=True))
        rules.write_text("".join(table))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=90,
            hard_vocab_limit=False,
            normalization_rule_tsv=str(rules),
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = np.zeros((len(fixed.PROMPTS), LENGTH), np.int32)
    for row, text in zip(ids, fixed.PROMPTS, strict=True):
        found = [*processor.encode(text)[: LENGTH - 1], 1]
        row[: len(found)] = found
    return {"spiece": np.frombuffer(model.getvalue(), np.uint8), "ids": ids}


if __name__ == "__main__":
    path = HERE / "deepfloyd.npz"
    np.savez_compressed(path, **networks(), **tokens())
    print(path.stat().st_size, "bytes")
