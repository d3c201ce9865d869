"""Taking a model out: its weights merged and written as a stream, and everything that makes the folder complete.

`merging.merge` writes the weights, and `folder.complete` what belongs beside them. Neither knows a job or a store.
"""
