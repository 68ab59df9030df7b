"""From files to networks and back: folders in the Hugging Face layout,
local or on the hub (`hub`, `companions`), config.json as NamedTuples (`configs*`), the
tables torch key <-> Flax path (`mapping*`), tensors read one by one and strictly
(`weights`), folders written (`save*`). Whatever is wrong with a folder is a
`errors.LoaderError` of one line. Only models/ and the ground are imported here.
"""
