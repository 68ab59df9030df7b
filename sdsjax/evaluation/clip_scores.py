"""CLIP similarity and CLIP R-precision of pictures of one asset.

Notation: pictures x_v, v = 1 .. V, fixed views on white; captions c_i, i = 1 .. n, of
which c_r is the asset's prompt, without a view word; s_vi the cosine of their
embeddings, in [-1, 1].

    similarity    mean_v s_vr. Papers that report "CLIP score 30" write 100 s.
    r_precision   the share of views with s_vr > s_vi for every i != r, in [0, 1]: a
                  tie is a miss, so that a scorer that cannot tell scores 0

Source: CLIP, arXiv 2103.00020; R-precision of renders: Park et al. 2021 (a benchmark
for compositional text-to-image), and for text-to-3D Jain et al., arXiv 2112.01455, and
DreamFusion, arXiv 2209.14988, sec. 4. Values depend on the network, the list and the
views; only equal ones compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.hub import Network
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer
from sdsjax.models.vision.clip_scorer import prepare

PICTURES, TEXTS = 16, 64  # embedded at once: one program each, the last batch padded
SMALLEST = 64  # px of a picture that is drawn for a scorer of fewer


class ClipScore(NamedTuple):
    """The scores of V views; similarities, best: of each view.

    best: the index of its nearest caption; r_precision: None for a single caption.
    """

    similarity: float
    r_precision: float | None
    similarities: list[float]
    best: list[int]


def score_views(cosines: np.ndarray, right: int) -> ClipScore:
    """Scores cosines s `[V n]` of views and captions; right: the prompt's index r."""
    own = cosines[:, right]
    others = np.delete(cosines, right, axis=1)
    precision = None
    if others.shape[1]:
        precision = float(np.mean(own > others.max(axis=1)))
    return ClipScore(
        float(np.mean(own)),
        precision,
        [float(value) for value in own],
        [int(index) for index in cosines.argmax(axis=1)],
    )


def _in_batches(function: Callable, rows: np.ndarray, count: int) -> np.ndarray:
    parts = []
    for first in range(0, len(rows), count):
        some = rows[first : first + count]
        filled = np.concatenate([some, np.repeat(some[-1:], count - len(some), axis=0)])
        parts.append(np.asarray(function(filled))[: len(some)])
    return np.concatenate(parts)


class ClipScorer:
    """CLIP's two towers, compiled: pictures and texts in, unit vectors out.

    size: pixels a side at which an asset is drawn for it.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer):
        self._params, self._tokenizer = network.params, tokenizer
        module, side = network.module, network.config.vision.image_size
        self.size = max(side, SMALLEST)
        self._known: dict[str, np.ndarray] = {}

        @jax.jit
        def picture(params, rgb):
            x = prepare(rgb, side)
            return module.apply({"params": params}, x, method="embed_images")

        @jax.jit
        def text(params, ids):
            return module.apply({"params": params}, ids, method="embed_texts")

        self._picture, self._text = picture, text

    def embed_pictures(self, rgb: np.ndarray) -> np.ndarray:
        """Embeds rgb `[V h w 3]` in [0, 1] as `[V p]`."""
        rgb = np.clip(np.asarray(rgb, np.float32), 0.0, 1.0)
        return _in_batches(
            lambda some: self._picture(self._params, jnp.asarray(some)), rgb, PICTURES
        )

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds n texts as `[n p]`; those it has seen before are not computed again.

        A text too long for the tower loses its tail, with the tokenizer's warning.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            rows = _in_batches(
                lambda ids: self._text(self._params, jnp.asarray(ids)),
                self._tokenizer(new),
                TEXTS,
            )
            self._known |= dict(zip(new, rows))
        return np.stack([self._known[text] for text in texts])

    def score(self, rgb: np.ndarray, prompt: str, captions: Sequence[str]) -> ClipScore:
        """Scores rgb `[V h w 3]` of the asset of a prompt, which is among captions."""
        cosines = self.embed_pictures(rgb) @ self.embed_texts(captions).T
        return score_views(cosines, list(captions).index(prompt))
