"""Wrappers of the hot path's ops. Each calls a C++ op, or builds a TensorFlow graph if the library is missing."""
