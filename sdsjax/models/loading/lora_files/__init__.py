"""LoRA files merged into networks when they are read.

`keys` knows how such files spell the layers that they change; `merge` adds them. What
trains beside a network in VSD is another thing: models/unets/lora.
"""
