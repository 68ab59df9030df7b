"""Text encoders and their tokenizers: from words to states.

The encoders `clip` and `t5`, and the tokenizers `clip_tokenizer` and `t5_tokenizer`,
which read the files of a tokenizer folder. Priors encode a prompt once with them.
"""
