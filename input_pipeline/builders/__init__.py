"""Published data sets, and one's own, as ArrayRecord that TFDS reads.

`builder.Builder` is what each source is; `registry` names them; `build` writes them.
"""
