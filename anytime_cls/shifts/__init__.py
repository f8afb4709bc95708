"""Pictures made otherwise than a model has seen them: corruptions, sketches, textures, shortcuts.

`registry.parse` has them by name, `datasets.shifted` a data set of them; docs/compare.md says what each is.
"""
