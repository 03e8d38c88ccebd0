"""Weights in and out: published names <-> our parameter tree.

`rules` and `mapping` are the machinery, `clip`, `convnext`, `llama`, `sam`, `miras` the
tables, one per published source; `kinds` names them all.
"""
