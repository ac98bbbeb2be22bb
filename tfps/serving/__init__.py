"""Serves a model that is trained elsewhere: `Follower` keeps a copy of its tables, with numpy and pyarrow alone."""

from tfps.serving.follower import Follower

__all__ = ["Follower"]
