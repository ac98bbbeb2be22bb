"""Lookups for custom layers and loops: the functions of `tf.nn`, also for tables on parameter servers."""

from tfps.nn.lookups import embedding_lookup, embedding_lookup_sparse, safe_embedding_lookup_sparse

__all__ = ["embedding_lookup", "embedding_lookup_sparse", "safe_embedding_lookup_sparse"]
