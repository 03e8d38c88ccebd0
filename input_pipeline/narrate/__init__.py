"""Conversations written from labels, for photographs that come without any.

`write.write` is the door; what is said is in `wordings/`, one file a language.
"""
