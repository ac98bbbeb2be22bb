"""The hot path of an embedding step: each op in C++, or as a TensorFlow graph where that is not built."""
