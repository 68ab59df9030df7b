"""Files of LPIPS -> its network, under the keys that published files have.

`read_weights` reads .safetensors and .npz, one file or a folder of them; the door is
`load_lpips`. Nothing is unpickled.
"""
