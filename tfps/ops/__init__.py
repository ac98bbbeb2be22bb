"""The hot path of an embedding step: each op in C++ where the library is there, as a TensorFlow graph where it is not."""
