"""The ops of the hot path, one wrapper each: in C++, or as a TensorFlow graph where the library is not built."""
