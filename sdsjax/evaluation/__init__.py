"""Numbers that other networks give a finished asset: CLIP scores and LPIPS.

`clip_scores` and `lpips_scores` turn pictures into numbers, `caption_lists` says among
which captions the right one has to be found, `records` keeps the numbers beside a run
(scores.json). It may import the models, the toybox and what is below them; exports,
training and the command lines import it.
"""
