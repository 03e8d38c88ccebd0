"""Annotated photographs of users: one reader a form, all to `photo.LabelledPhoto`."""
