"""The denoisers: modules of Flax linen on NHWC arrays.

`stable_diffusion` (UNet2DCondition of 1.5, 2.1 and the toybox), `deepfloyd` (stage 1 of
IF, pixels), `multiview` (several views at once), `sdxl`, and `lora`, the low-rank
second network of VSD beside a frozen one.
"""
