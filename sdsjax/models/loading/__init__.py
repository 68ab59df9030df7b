"""From files to networks and back.

Folders in the Hugging Face layout are local or on the hub (`hub`, `companions`);
config.json become NamedTuples (`configs*`), a scheduler's file a noise schedule
(`scheduler`); tables map torch keys to Flax paths (`mapping*`); tensors are read one by
one and strictly (`weights`), and folders written (`save*`). Whatever is wrong with a
folder is a `errors.LoaderError` of one line. Only models/ and the ground are imported
here.
"""
